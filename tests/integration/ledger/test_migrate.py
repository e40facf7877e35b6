"""The migrations: applied once, in order, by one process at a time, and refused where a person has to decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import ledger.sql
from ledger.errors import LedgerError, MigrationError, SettingsError, Unavailable
from ledger.migrate import LOCK_KEY, migrate, migrations, pending
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually

Connection = Any  # asyncpg's own type is generic for type checkers only
SQL = Path(ledger.sql.__file__).parent
SCHEMA = [SQL / "schema.sql", *sorted((SQL / "migrations").glob("000[5-8]_*.sql"))]
"""The tables as they stand, and the functions, which stand in their migrations only."""


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[Connection]:
    """A connection to look at the outcome with."""
    each = await asyncpg.connect(empty_database)
    yield each
    each.terminate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two migrations."""
    return written(
        tmp_path, {"0001_first": "create table ledger.a (x int);", "0002_second": "create table ledger.b ()"}
    )


def written(folder: Path, texts: dict[str, str]) -> Path:
    """Write migrations, named without their ending."""
    for name, text in texts.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


def names(applied: list[Any]) -> list[str]:
    """The file names, in order."""
    return [migration.file_name for migration in applied]


async def refusal(target: str, folder: Path, **options: Any) -> str:
    """The sentence with which `migrate` refuses; `pending` has to agree where it can know."""
    with pytest.raises(MigrationError) as caught:
        await migrate(target, directory=folder, **options)
    assert not caught.value.retryable
    return caught.value.sentence


class TestApplying:
    """What a good folder does."""

    async def test_each_file_is_applied_once(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """In order, with a record of each; a second run finds nothing to do, a third only what is new."""
        assert names(await pending(empty_database, directory=folder)) == ["0001_first.sql", "0002_second.sql"]
        assert await connection.fetchval("select to_regnamespace('ledger')") is None, "pending changes nothing"
        assert names(await migrate(empty_database, directory=folder)) == ["0001_first.sql", "0002_second.sql"]
        assert await migrate(empty_database, directory=folder) == []
        written(
            folder, {"0003_third": "alter table ledger.b add y text default 'z'; insert into ledger.b default values;"}
        )
        assert names(await pending(empty_database, directory=folder)) == ["0003_third.sql"]
        assert names(await migrate(empty_database, directory=folder)) == ["0003_third.sql"]
        assert await connection.fetchval("select y from ledger.b") == "z"
        rows = await connection.fetch("select version, name, checksum from ledger.migration order by version")
        assert [(row["version"], row["name"]) for row in rows] == [(1, "first"), (2, "second"), (3, "third")]
        assert [row["checksum"] for row in rows] == [each.checksum for each in migrations(folder)]

    async def test_an_open_connection_is_left_as_it_was(self, connection: Connection, folder: Path) -> None:
        """Its limits come back, its lock is gone, and it stays open."""
        await connection.execute("set lock_timeout = '123ms'; set statement_timeout = '4s'")
        assert len(await migrate(connection, directory=folder)) == 2
        assert await connection.fetchval("show lock_timeout") == "123ms"
        assert await connection.fetchval("show statement_timeout") == "4s"
        assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0

    async def test_a_role_with_a_short_statement_timeout(self, empty_database: str, folder: Path) -> None:
        """The gateway's limit does not stop a migration that takes longer."""
        connection = await asyncpg.connect(empty_database)
        await connection.execute("set statement_timeout = 50")
        written(folder, {"0003_slow": "select pg_sleep(0.1)"})
        assert len(await migrate(connection, directory=folder)) == 3
        connection.terminate()

    async def test_several_start_at_once(self, empty_database: str, folder: Path) -> None:
        """One works, the others wait and find it done."""
        outcomes = await asyncio.gather(*(migrate(empty_database, directory=folder) for _ in range(5)))
        assert sorted(map(len, outcomes)) == [0, 0, 0, 0, 2]

    async def test_line_ends_do_not_matter(self, empty_database: str, tmp_path: Path) -> None:
        """A checkout on another system has the same checksums."""
        written(tmp_path, {"0001_a": "select 1;\nselect 2;\n"})
        await migrate(empty_database, directory=tmp_path)
        (tmp_path / "0001_a.sql").write_bytes(b"select 1;\r\nselect 2;\r\n")
        assert await migrate(empty_database, directory=tmp_path) == []

    async def test_the_migrations_make_the_schema_that_stands_in_the_file(
        self, database: str, empty_database: str
    ) -> None:
        """schema.sql is for reading, and is what the migrations make, column by column."""
        migrated, written_out = await asyncpg.connect(database), await asyncpg.connect(empty_database)
        for file in SCHEMA:
            await written_out.execute(file.read_text())
        assert await catalog(migrated) == await catalog(written_out)
        assert len(await catalog(migrated)) > 40, "nothing was compared"
        migrated.terminate()
        written_out.terminate()

    async def test_our_own_migrations_are_applied(self, database: str) -> None:
        """A database of the fixture is up to date, and knows its files."""
        assert await pending(database) == []
        assert names(migrations())[0] == "0001_tasks.sql"


class TestRefusals:
    """What is refused, in words that name the file."""

    async def test_an_applied_file_that_was_edited(self, empty_database: str, folder: Path) -> None:
        """The database would not be what the files say."""
        await migrate(empty_database, directory=folder)
        written(folder, {"0001_first": "create table ledger.a (x bigint);"})
        assert "0001_first.sql was edited after it was applied" in await refusal(empty_database, folder)
        with pytest.raises(MigrationError, match="was edited"):
            await pending(empty_database, directory=folder)

    async def test_an_applied_file_that_is_gone(self, empty_database: str, folder: Path) -> None:
        """From the middle it is a hole; from the end the database is newer than the code."""
        await migrate(empty_database, directory=folder)
        (folder / "0002_second.sql").unlink()
        assert "newer than this version: it has 0002_second" in await refusal(empty_database, folder)
        written(folder, {"0003_third": "select 1"})
        assert "0002 is missing before 0003_third.sql" in await refusal(empty_database, folder)

    async def test_a_record_that_somebody_changed(
        self, empty_database: str, folder: Path, connection: Connection
    ) -> None:
        """A row taken out of the table does not let a file be applied twice."""
        await migrate(empty_database, directory=folder)
        await connection.execute("delete from ledger.migration where version = 1")
        assert "somebody has changed ledger.migration" in await refusal(empty_database, folder)

    async def test_a_file_that_fails(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """It is undone as a whole and named with its line; those before it stay, and it can be run again."""
        written(folder, {"0003_wrong": "create table ledger.c ();\n\nselect nothing;", "0004_next": "select 1"})
        sentence = await refusal(empty_database, folder)
        assert "0003_wrong.sql failed (line 3)" in sentence
        assert '"nothing" does not exist' in sentence
        assert await connection.fetchval("select max(version) from ledger.migration") == 2
        assert await connection.fetchval("select to_regclass('ledger.c')") is None
        written(folder, {"0003_wrong": "create table ledger.c ();"})
        assert names(await migrate(empty_database, directory=folder)) == ["0003_wrong.sql", "0004_next.sql"]

    @pytest.mark.parametrize("word", ["commit", "rollback"])
    async def test_a_file_that_ends_its_transaction(
        self, empty_database: str, folder: Path, connection: Connection, word: str
    ) -> None:
        """Its record would not be part of it; it is refused, and not recorded."""
        written(folder, {"0003_ends": f"create table ledger.c (); {word};"})
        assert "0003_ends.sql ends the transaction" in await refusal(empty_database, folder)
        assert await connection.fetchval("select max(version) from ledger.migration") == 2

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({}, "there are no migrations"),
            ({"0001_a": "", "0001_b": ""}, "0001_b.sql and 0001_a.sql have the same number"),
            ({"0001_a": "", "0003_c": ""}, "0002 is missing before 0003_c.sql"),
            ({"0002_b": ""}, "0001 is missing before 0002_b.sql"),
            ({"0001_a": "", "2_b": ""}, "2_b.sql is not named like a migration"),
            ({"0001_a": "", "0002 b": ""}, "0002 b.sql is not named like a migration"),
        ],
    )
    async def test_a_folder_that_is_not_in_order(
        self, empty_database: str, tmp_path: Path, files: dict[str, str], words: str
    ) -> None:
        """Found before anything is applied."""
        (tmp_path / "README.md").write_text("is not looked at")
        assert words in await refusal(empty_database, written(tmp_path, files))
        assert "ledger" not in await schemas(empty_database)

    async def test_another_process_at_work(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """It is waited for only so long, and nothing has been touched."""
        await connection.execute("select pg_advisory_lock($1)", LOCK_KEY)
        assert "another process" in await refusal(empty_database, folder, lock_wait_seconds=0.1)
        assert "ledger" not in await schemas(empty_database)

    async def test_a_table_that_somebody_holds(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """While a change waits for a table all others wait behind it, so it does not wait for long."""
        await migrate(empty_database, directory=folder)
        written(folder, {"0003_more": "alter table ledger.a add y int"})
        async with connection.transaction():
            await connection.execute("select from ledger.a")
            assert "lock timeout" in await refusal(empty_database, folder, lock_wait_seconds=0.1)
        assert len(await migrate(empty_database, directory=folder)) == 1

    async def test_a_role_that_may_not(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """A missing right is a person's to give."""
        await connection.execute("set role pg_monitor")
        with pytest.raises(MigrationError, match="permission denied"):
            await migrate(connection, directory=folder)


class TestLostLink:
    """The server is away, or goes in the middle."""

    async def test_no_server(self, folder: Path) -> None:
        """It may be tried again."""
        with pytest.raises(Unavailable):
            await migrate("postgresql://postgres@127.0.0.1:1/x?sslmode=disable", directory=folder)

    async def test_a_url_that_cannot_be_read(self, folder: Path) -> None:
        """It is refused without its password."""
        with pytest.raises(SettingsError, match=r"u:\*\*\*@h"):
            await migrate("postgresql://u:pa/ss@h/d", directory=folder)

    async def test_a_link_lost_in_the_middle(self, empty_database: str, folder: Path, connection: Connection) -> None:
        """A file and its record are one, so it is safe to begin anew."""
        written(folder, {"0003_slow": "create table ledger.c (); select pg_sleep(0.3)"})
        async with Proxy(address_of(empty_database)) as proxy:
            work = asyncio.create_task(migrate(through(empty_database, proxy.port), directory=folder))
            active = (
                "select count(*) from pg_stat_activity where query like '%pg_sleep(0.3)' and pid <> pg_backend_pid()"
            )
            await eventually(lambda: connection.fetchval(active))
            proxy.set(Link.RESET)
            with pytest.raises(LedgerError) as caught:
                await work
            assert isinstance(caught.value, Unavailable)
        assert names(await migrate(empty_database, directory=folder)) in ([], ["0003_slow.sql"])
        assert await connection.fetchval("select to_regclass('ledger.c')") is not None


async def schemas(dsn: str) -> set[str]:
    """The names of all schemas."""
    connection = await asyncpg.connect(dsn)
    try:
        return {row["nspname"] for row in await connection.fetch("select nspname from pg_namespace")}
    finally:
        connection.terminate()


CATALOG = {
    "relation": """
        select relname, relkind, relpersistence, reloptions, relrowsecurity, relacl, obj_description(oid, 'pg_class')
        from pg_class where relnamespace = 'ledger'::regnamespace
    """,
    "column": """
        select attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
            attstorage, attcompression, attcollation, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
        from pg_attribute
        join pg_class c on c.oid = attrelid and c.relnamespace = 'ledger'::regnamespace
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attnum > 0 and not attisdropped
    """,
    "constraint": """
        select conrelid::regclass, conname, pg_get_constraintdef(oid)
        from pg_constraint where connamespace = 'ledger'::regnamespace
    """,
    "index": "select indexname, indexdef from pg_indexes where schemaname = 'ledger'",
    "view": "select viewname, definition from pg_views where schemaname = 'ledger'",
    "function": """
        select oid::regprocedure, pg_get_functiondef(oid), proacl, obj_description(oid, 'pg_proc')
        from pg_proc where pronamespace = 'ledger'::regnamespace and prokind in ('f', 'p')
    """,
    "trigger": """
        select pg_get_triggerdef(t.oid)
        from pg_trigger t join pg_class c on c.oid = tgrelid and c.relnamespace = 'ledger'::regnamespace
        where not tgisinternal
    """,
    "type": """
        select typname, typtype, format_type(typbasetype, typtypmod),
            array(select enumlabel::text from pg_enum where enumtypid = t.oid order by enumsortorder)
        from pg_type t where typnamespace = 'ledger'::regnamespace and typtype in ('e', 'd')
    """,
}


async def catalog(connection: Connection) -> set[tuple[str, str]]:
    """Everything in schema `ledger`, as the server describes it; the order of columns does not count."""
    return {
        (kind, row["text"])
        for kind, query in CATALOG.items()
        for row in await connection.fetch(f"select row_to_json(x)::text as text from ({query}) x")
    }
