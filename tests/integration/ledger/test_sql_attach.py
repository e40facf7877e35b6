"""Attached tables: what is written to them becomes transitions, and nothing of it ever fails or holds up who writes."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.support.node import connected

Connection = Any  # asyncpg's own type is generic for type checkers only
TABLE = """
    create type mood as enum ('fresh', 'busy', 'gone');
    create table job (task_id uuid primary key default gen_random_uuid(), status varchar(20), error_message text,
        pct numeric, note text, step text, extra jsonb, client integer, mood mood);
"""
ATTACH = """
    select ledger.attach('job', id => 'task_id', status => 'status', error => 'error_message', progress => 'pct',
        message => 'note', stage => 'step', data => 'extra', owner => 'client', kind => 'roadmap',
        map => '{"queued": "pending", "processing": "running", "done": "completed", "oops": "failed", "draft": null}')
"""


@pytest.fixture
async def sql(database: str) -> Any:
    """A connection whose role is bound to tenant `t`, with a table."""
    async with connected(database) as connection:
        await connection.execute("select ledger.bind(current_user, 't')")
        await connection.execute(TABLE)
        yield connection


async def transitions(sql: Connection) -> list[tuple[Any, ...]]:
    """What a gateway makes of the inbox."""
    while await sql.fetchval("select entries from ledger.read_inbox(2)"):
        pass
    rows = await sql.fetch("select * from ledger.transition order by at")
    return [(row["seq"], row["status"], row["progress"]) for row in rows]


async def test_a_row_becomes_a_task_and_its_changes_transitions(sql: Connection) -> None:
    """Created with its kind and owner; progress, stage, message, data and error as the columns have them."""
    await sql.execute(ATTACH)
    await sql.execute("insert into job (status, client) values ('queued', 7)")
    await sql.execute("update job set status = 'processing', pct = 10.5, note = 'begins', step = 'one'")
    await sql.execute("update job set pct = 140, extra = '{\"a\": [1]}', note = null")
    await sql.execute("update job set mood = 'busy', client = 8")
    await sql.execute("update job set status = 'oops', error_message = 'it broke'")
    await sql.execute("delete from job")
    assert await transitions(sql) == [
        (1, "pending", None),
        (2, "running", 10.5),
        (3, "running", 100),
        (4, "failed", 100),
    ]
    task = await sql.fetchrow("select * from ledger.head")
    assert (task["kind"], task["owner"], task["created"], task["stage"], task["message"]) == (
        "roadmap",
        "7",
        True,
        "one",
        None,
    )
    payloads = await sql.fetchrow(
        "select string_agg(data::text, '') as data, string_agg(error::text, '') as error from ledger.transition"
    )
    assert (payloads["data"], payloads["error"]) == ('{"a": [1]}', '{"message" : "it broke"}')
    assert await sql.fetchval("select unmade from ledger.attached()") == 0


async def test_many_rows_in_one_transaction_and_none_of_a_rollback(sql: Connection) -> None:
    """They come in their order, with the commit."""
    await sql.execute(ATTACH)
    async with sql.transaction():
        await sql.execute("insert into job (status) select 'processing' from generate_series(1, 50)")
        await sql.execute("update job set pct = 50")
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with sql.transaction():
            await sql.execute("update job set status = 'done'")
            await sql.execute("select 1/0")
    made = await transitions(sql)
    assert sorted(made) == [(1, "pending", None)] * 50 + [(2, "running", None)] * 50 + [(3, "running", 50)] * 50


async def test_what_cannot_be_mirrored_is_counted_and_told_once(sql: Connection) -> None:
    """A word that nobody mapped, an end that is not the end: the caller's statement is done all the same."""
    await sql.execute(ATTACH)
    await sql.execute("insert into job (status) values ('strange'), ('strange'), ('draft'), (null), ('done')")
    unmade = [await sql.fetchval("select unmade from ledger.read_inbox(100)")]
    await sql.execute("update job set status = 'processing' where status = 'done'")
    await sql.execute("update job set status = 'strange' where status = 'processing'")
    unmade.append(await sql.fetchval("select unmade from ledger.read_inbox(100)"))
    assert unmade == [["job: unmapped (strange)"], ["job: task_ended (processing)"]]
    assert await sql.fetchval("select count(*) from ledger.task") == 1
    row = await sql.fetchrow("select relation, unmade, reasons::text from ledger.attached()")
    assert (row["relation"], row["unmade"]) == ("public.job", 4)
    assert "strange" in row["reasons"]


async def test_a_column_that_is_dropped_later_fails_nobody(sql: Connection) -> None:
    """The change is counted, and the application goes on."""
    await sql.execute(ATTACH)
    await sql.execute("drop trigger ledgerwire_update on job; alter table job drop column step")
    await sql.execute("insert into job (status) values ('queued')")
    assert await transitions(sql) == []
    assert await sql.fetchval("select unmade from ledger.attached()") == 1


async def test_a_task_that_somebody_holds_waits_and_the_others_do_not(database: str, sql: Connection) -> None:
    """The writer of the table does not notice, and neither do other tasks; afterwards it follows in its order."""
    await sql.execute(ATTACH)
    held, free = (
        row["task_id"]
        for row in await sql.fetch("insert into job (status) values ('processing'), ('processing') returning task_id")
    )
    await transitions(sql)
    async with connected(database) as opened:
        other: Connection = opened
        transaction = other.transaction()
        await transaction.start()
        assert (await other.fetchrow("select * from ledger.report($1, progress => 1)", str(held)))["seq"] == 3
        await sql.execute("update job set pct = 20")
        await sql.execute("update job set pct = 30")
        assert await sql.fetchval("select entries from ledger.read_inbox(100)") == 2
        assert await sql.fetchval("select seq from ledger.head where task_id = $1", str(free)) == 4
        await transaction.commit()
    assert await transitions(sql)
    rows = await sql.fetch(
        "select p.progress from ledger.transition p join ledger.task using (key) where task_id = $1 order by 1",
        str(held),
    )
    assert [row["progress"] for row in rows] == [1, 20, 30, None, None]


async def test_detached_it_is_a_table_like_others(sql: Connection) -> None:
    """Nothing of it is left in the database, and it can be attached again, also where the table has gone meanwhile."""
    before = await things(sql)
    await sql.execute(ATTACH)
    assert await things(sql) > before
    with pytest.raises(asyncpg.UniqueViolationError, match="attached already"):
        await sql.execute(ATTACH)
    await sql.execute("select ledger.detach('job')")
    assert await things(sql) == before
    await sql.execute("insert into job (status) values ('queued')")
    assert await transitions(sql) == []
    await sql.execute(ATTACH)
    await sql.execute("drop table job; drop type mood;" + TABLE)
    await sql.execute(ATTACH)
    assert await sql.fetchval("select count(*) from ledger.attached()") == 1
    await sql.execute("select ledger.detach('job')")
    assert await things(sql) == before


async def things(sql: Connection) -> int:
    """How many functions, relations, triggers and attachments there are."""
    return int(
        await sql.fetchval(
            "select (select count(*) from pg_proc) + (select count(*) from pg_class where relkind in ('r', 'S'))"
            " + (select count(*) from pg_trigger) + (select count(*) from ledger.attachment)"
            " + (select count(*) from ledger.inbox)"
        )
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relation": "seen"}, "cannot be attached"),
        ({"relation": "part"}, "cannot be attached"),
        ({"relation": "parted"}, "cannot be attached"),
        ({"relation": "child"}, "cannot be attached"),
        ({"relation": "passing"}, "cannot be attached"),
        ({"relation": "ledger.task"}, "cannot be attached"),
        ({"id": "nothing"}, "no column 'nothing' for id"),
        ({"error": "nothing"}, "no column 'nothing' for error"),
        ({"id": "extra"}, "type of column 'extra' of public.job does not suit id"),
        ({"progress": "note"}, "does not suit progress"),
        ({"map": "[]"}, "map says which word"),
        ({"map": "{}"}, "map says which word"),
        ({"map": '{"on": "lost"}'}, "is mapped to 'lost', which is no status"),
    ],
)
async def test_a_table_that_cannot_be_mapped_is_refused(sql: Connection, change: dict[str, str], words: str) -> None:
    """In words, and nothing is left behind."""
    await sql.execute(
        "create view seen as select * from job; create temp table passing (like job);"
        " create table parted (like job) partition by list (status); create table part partition of parted default;"
        " create table father (like job); create table child () inherits (father)"
    )
    before = await things(sql)
    given = {
        "relation": "job",
        "id": "task_id",
        "status": "status",
        "map": '{"on": "running"}',
        "progress": None,
        "error": None,
    }
    with pytest.raises(asyncpg.PostgresError, match=words):
        await sql.execute(
            "select ledger.attach('{relation}', '{id}', '{status}', '{map}', {progress}, error => {error})".format(
                **{
                    name: value
                    if name in {"relation", "id", "status", "map"}
                    else "null"
                    if value is None
                    else f"'{value}'"
                    for name, value in (given | change).items()
                }
            )
        )
    assert await things(sql) == before


async def test_words_may_be_of_an_enumeration(sql: Connection) -> None:
    """Or numbers: what counts is how they are written."""
    await sql.execute("""select ledger.attach('job', 'task_id', 'mood', '{"fresh": "pending", "gone": "cancelled"}')""")
    await sql.execute("insert into job (mood) values ('fresh')")
    await sql.execute("update job set mood = 'gone'")
    assert await transitions(sql) == [(1, "pending", None), (2, "cancelled", None)]


async def test_words_may_be_true_and_false_or_padded(sql: Connection) -> None:
    """As a cast to text writes them."""
    await sql.execute("create domain code as char(8); create table made (id code primary key, done boolean)")
    await sql.execute("""select ledger.attach('made', 'id', 'done', '{"false": "running", "true": "completed"}')""")
    await sql.execute("insert into made values ('a', false)")
    await sql.execute("update made set done = true")
    assert await transitions(sql) == [(1, "pending", None), (2, "running", None), (3, "completed", None)]
    assert await sql.fetchval("select task_id from ledger.task") == "a"
