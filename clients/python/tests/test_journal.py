"""The journal: what is in it after kills, cuts and full disks; and that a worker with it loses and doubles nothing."""

from __future__ import annotations

import asyncio
import random
import resource
import stat
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import ledgerwire
from ledgerwire import Timing, wire
from ledgerwire.delivery import Delivery
from ledgerwire.errors import rejected
from ledgerwire.journal import MIN_BYTES, Entry, Journal
from tests.support.gateway import Gateway, GatewayProcess
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually

from .conftest import History

PROGRAM = Path(__file__).with_name("journalling_worker.py")
SOURCE = Path(ledgerwire.__file__).resolve().parents[1]
QUICK = Timing(reply_seconds=0.5, reconnect_ceiling_seconds=0.2, close_seconds=0.2, finish_seconds=0.2)


def opened(folder: Path) -> tuple[Journal, list[Entry]]:
    journal = Journal(folder, MIN_BYTES)
    return journal, journal.open()


def add(journal: Journal, n: int, size: int = 10, *, must_fit: bool = False) -> int:
    return journal.append(task_id="t", attempt=1, n=n, terminal=False, body={"message": "x" * size}, must_fit=must_fit)


def test_what_is_not_settled_is_there_again_in_its_order(tmp_path: Path) -> None:
    """After any number of openings."""
    journal, found = opened(tmp_path / "j")
    assert found == []
    ids = [add(journal, n) for n in range(1, 6)]
    journal.settle(ids[1:3])
    for _ in range(2):
        journal.close()
        journal, found = opened(tmp_path / "j")
        assert [(entry.task_id, entry.attempt, entry.n, entry.body) for entry in found] == [
            ("t", 1, n, {"message": "x" * 10}) for n in (1, 4, 5)
        ]
    journal.settle(entry.id for entry in found)
    assert (tmp_path / "j" / "reports").stat().st_size == 0, "nothing is kept of what is settled"
    journal.close()


def test_a_tail_that_was_cut_off_anywhere_costs_no_other_report(tmp_path: Path) -> None:
    """At every byte of the last line, and a new report finds its place behind."""
    journal, _ = opened(tmp_path / "whole")
    for n in (1, 2):
        add(journal, n)
    path = tmp_path / "whole" / "reports"
    sound = path.stat().st_size
    add(journal, 3)
    content = path.read_bytes()
    journal.close()
    for cut in range(sound, len(content)):
        path.write_bytes(content[:cut])
        journal, found = opened(tmp_path / "whole")
        assert [entry.n for entry in found] == [1, 2]
        add(journal, 4)
        journal.close()
        journal, found = opened(tmp_path / "whole")
        assert [entry.n for entry in found] == [1, 2, 4]
        journal.close()


def test_a_damaged_line_costs_itself_alone(tmp_path: Path, dice: random.Random) -> None:
    """A bit that has flipped in the middle is told, and the rest is read."""
    journal, _ = opened(tmp_path)
    for n in (1, 2, 3):
        add(journal, n)
    journal.close()
    lines = (tmp_path / "reports").read_bytes().splitlines(keepends=True)
    place = dice.randrange(len(lines[1]) - 1)
    lines[1] = lines[1][:place] + bytes([lines[1][place] ^ 0x10]) + lines[1][place + 1 :]
    (tmp_path / "reports").write_bytes(b"".join(lines))
    journal, found = opened(tmp_path)
    journal.close()
    assert [entry.n for entry in found] == [1, 3]


def test_a_journal_never_grows_beyond_its_bound(tmp_path: Path, dice: random.Random) -> None:
    """However much goes through it; when all of it is open, ends of tasks still find room."""
    journal, _ = opened(tmp_path)
    waiting: list[int] = []
    through = 0
    for n in range(1, 600):
        through += (size := dice.randrange(1, 8_000))
        waiting.append(add(journal, n, size))
        if len(waiting) > 10:
            journal.settle([waiting.pop(dice.randrange(len(waiting)))])
        assert (tmp_path / "reports").stat().st_size <= MIN_BYTES
    assert through > 4 * MIN_BYTES
    journal.close()
    journal, found = opened(tmp_path)
    assert [entry.id for entry in found] == waiting
    taken = 0
    with pytest.raises(ledgerwire.QueueFull, match="not acknowledged"):
        while True:
            add(journal, 1_000 + taken, 4_000)
            taken += 1
    assert taken > 10
    add(journal, 2_000, 4_000, must_fit=True)
    journal.close()


def test_a_journal_belongs_to_one_process_and_one_user(tmp_path: Path) -> None:
    """Its payloads can be read by the owner alone, whatever the umask is, and no link leads it elsewhere."""
    journal, _ = opened(tmp_path / "j")
    add(journal, 1)
    for name in ("reports", "lock"):
        assert stat.S_IMODE((tmp_path / "j" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    with pytest.raises(ledgerwire.JournalError, match="another process"):
        opened(tmp_path / "j")
    add(journal, 2)
    journal.close()
    (tmp_path / "j" / "reports").chmod(0o644)
    opened(tmp_path / "j")[0].close()
    assert stat.S_IMODE((tmp_path / "j" / "reports").stat().st_mode) == 0o600
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "reports").symlink_to(tmp_path / "j" / "reports")
    with pytest.raises(ledgerwire.JournalError, match="cannot be used"):
        opened(tmp_path / "linked")
    with pytest.raises(ValueError, match="bytes at least"):
        Journal(tmp_path, 10)


def test_a_disk_that_is_full_is_told_and_nothing_is_taken(tmp_path: Path) -> None:
    """What was written of the report is taken away again; those before it are safe, and later ones find room."""
    journal, _ = opened(tmp_path)
    add(journal, 1)
    size = (tmp_path / "reports").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(ledgerwire.JournalError, match="File too large"):
            add(journal, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "reports").stat().st_size == size
    add(journal, 3)
    journal.close()
    journal, found = opened(tmp_path)
    assert [entry.n for entry in found] == [1, 3]
    journal.close()


def test_half_an_acknowledgement_spoils_no_report_behind_it(tmp_path: Path) -> None:
    """A disk that is full while one is written takes some of its bytes; they are gone before the next line."""
    journal, _ = opened(tmp_path)
    first = add(journal, 1)
    add(journal, 2)
    size = (tmp_path / "reports").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        journal.settle([first])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    add(journal, 3)
    journal.close()
    journal, found = opened(tmp_path)
    assert [entry.n for entry in found] == [1, 2, 3]  # the first is sent once more, without effect
    journal.close()


async def test_what_an_outage_has_kept_is_sent_by_the_next_worker_first(
    gateway: Gateway, history: History, tmp_path: Path
) -> None:
    """Under its old numbers, and before a new attempt could fence it; the end of a task is kept too."""
    async with Proxy(("127.0.0.1", gateway.port)) as proxy, asyncio.timeout(WAIT_SECONDS):
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        async with ledgerwire.Worker(url, journal=tmp_path, timing=QUICK) as worker:
            with pytest.raises(ZeroDivisionError):
                async with worker.task("a") as a:
                    async with worker.task("b") as b:
                        await a.progress(1)
                        proxy.set(Link.MUTE)  # it arrives, and nobody is told
                        a.post(2)
                        await eventually(lambda: a.attempt == 1)
                        proxy.set(Link.RESET)
                        a.post(3)
                        b.post(50, data={"file": "ü"})
                        with pytest.raises(ledgerwire.DeliveryTimeout):
                            await b.complete({"rows": 7}, timeout_seconds=0.1)
                    raise ZeroDivisionError
        proxy.set(Link.PASS)
        async with ledgerwire.Worker(url, journal=str(tmp_path)) as worker:
            with pytest.raises(ledgerwire.TaskEnded, match="completed"):
                await worker.task("b").__aenter__()
            with pytest.raises(ledgerwire.TaskEnded, match="failed"):
                await worker.task("a").__aenter__()
            assert worker.queued == 0
    transitions = await history(gateway, "a")
    assert [each["progress"] for each in transitions] == [None, 1, 2, 3, 3]
    assert transitions[-1]["error"]["type"] == "ZeroDivisionError"
    transitions = await history(gateway, "b")
    assert [each["progress"] for each in transitions] == [None, 50, 50]
    assert transitions[-1]["result"] == {"rows": 7}


@pytest.mark.parametrize(("code", "kept"), [("forbidden", 1), ("bad_request", 0), ("task_ended", 0), ("fenced", 0)])
async def test_a_report_that_the_token_may_not_make_stays(
    tmp_path: Path, dice: random.Random, code: str, kept: int
) -> None:
    """For a worker with the right one; what the gateway refuses for itself is done with."""
    journal = Journal(tmp_path, MIN_BYTES)
    delivery = Delivery(10, Timing(), dice, lambda: None, journal)
    delivery.open_journal()
    delivery.take(delivery.queue.restore("t", 1), "report", {"task_id": "t", "progress": 1})
    (message,) = delivery.queue.due(0.0, 10)
    delivery.settle(wire.Reply(message["id"], rejection=rejected(code, "No.")), 0.0)
    assert (len(delivery.queue), delivery.journalled) == (0, kept)
    delivery.close_journal()


class Victim:
    """A process of `journalling_worker.py`, and what it says that it has posted."""

    def __init__(self, process: asyncio.subprocess.Process, posted: dict[str, list[str]]) -> None:
        self.process = process
        self.begun = asyncio.Event()
        self.lines = 0
        self._posted = posted
        self.reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, url: str, journal: Path, tasks: int, seed: int, posted: dict[str, list[str]]) -> Victim:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            PROGRAM,
            url,
            journal,
            str(tasks),
            str(seed),
            env={"PYTHONPATH": str(SOURCE)},
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, posted)

    async def reaches(self, lines: int) -> None:
        await eventually(lambda: self.lines >= lines)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            words = line.decode().split()
            if words[0] == "begun":
                self.begun.set()
            elif line.endswith(b"\n"):
                self._posted[words[1]].append(words[2])
                self.lines += 1


async def test_a_worker_killed_at_random_moments_of_outages_loses_and_doubles_nothing(
    process: GatewayProcess, history: History, dice: random.Random, tmp_path: Path
) -> None:
    """SIGKILL, again and again, with the gateway away or not: all that `post` has returned for is in the ledger, once.

    Of each attempt the ledger has the reports 1 to n in order; at most the one under way at the kill is there more.
    """
    tasks, rounds = 3, 4
    posted: dict[str, list[str]] = defaultdict(list)
    in_outage = kept = 0
    async with Proxy(("127.0.0.1", process.port)) as proxy, asyncio.timeout(3 * WAIT_SECONDS):
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        for _ in range(rounds):
            victim = await Victim.start(url, tmp_path, tasks, dice.randrange(2**32), posted)
            proxy.set(Link.PASS)
            await victim.begun.wait()
            await victim.reaches(dice.randrange(1, 60))
            if dice.random() < 0.8:
                in_outage += 1
                proxy.set(dice.choice([Link.RESET, Link.MUTE, Link.STALL]))
                await victim.reaches(victim.lines + dice.randrange(1, 60))
            victim.process.kill()
            await victim.process.wait()
            await victim.reading
            proxy.set(Link.RESET)
            kept += (tmp_path / "reports").stat().st_size > 0
        proxy.set(Link.PASS)
        last = await Victim.start(url, tmp_path, 0, 0, posted)
        assert await last.process.wait() == 0
        await last.reading
    assert in_outage >= 1
    assert kept >= 1, "no kill has left a report behind: this run has shown nothing"
    assert (tmp_path / "reports").stat().st_size == 0
    for name, said in posted.items():
        found = [each["message"] for each in await history(process, name) if "data" in each]
        assert len(found) == len(set(found)), "twice"
        for attempt in range(1, rounds + 1):
            reports = [text for text in found if text.startswith(f"{attempt}.")]
            assert reports == [f"{attempt}.{n}" for n in range(1, len(reports) + 1)]
            promised = [text for text in said if text.startswith(f"{attempt}.")]
            assert len(promised) <= len(reports) <= len(promised) + 1
