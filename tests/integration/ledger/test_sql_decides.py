"""One decision, two ways: what is asked in SQL is answered as `ledger.decide` does, also where both take turns."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.protocol import messages, requests
from ledger.machine import NEXT, Move, Status
from ledger.model import Receipt, Request, task_key
from tests.integration.ledger.test_model import Life, compare, compare_task
from tests.property.document_model import in_paper_words
from tests.property.requests_of_all_shapes import TENANT, cancel_requests, creates, progress, reports
from tests.support.in_sql import Connection, settle
from tests.support.ledgers import Ledger, ledger
from tests.support.node import connected
from tests.support.postgres import Cluster, temporary_database

SETTINGS: Final = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ROUNDS: Final = 10
"""At most: most seeds have everything in the first one or two."""
some: Final = st.one_of(progress(), reports(), reports(), reports(), creates(), cancel_requests())
asked: Final = st.lists(st.tuples(st.booleans(), some), min_size=1, max_size=14)


async def test_the_state_machine_is_the_same(database: str) -> None:
    """Every move in every status, as the table in ledger/machine.py has it."""
    async with connected(database) as connection:
        for status, move in itertools.product(Status, Move):
            after = await connection.fetchval("select ledger.next_status($1, $2)", str(status), str(move))
            assert after == NEXT[status].get(move), (status, move)


@pytest.fixture
async def sql(database: str) -> Any:
    """A connection of a role that is bound to tenant `t`."""
    async with connected(database) as connection:
        await connection.execute("select ledger.bind(current_user, 't')")
        yield connection


@pytest.fixture
def opened(cluster: Cluster) -> Iterator[tuple[asyncio.Runner, Connection, Ledger]]:
    """A database with a connection of an application and a gateway's writer, without an event loop around the test."""
    with asyncio.Runner() as runner:

        async def opening() -> Any:
            async with temporary_database(cluster) as dsn, connected(dsn) as connection, ledger(dsn) as it:
                yield connection, it

        both = opening()
        connection, it = runner.run(anext(both))
        yield runner, connection, it
        runner.run(both.aclose())


def test_sql_and_the_writer_decide_alike(opened: tuple[asyncio.Runner, Connection, Ledger], seed: int) -> None:
    """Requests of all shapes to one task, each by either way: answers and rows are those of docs/protocol.md."""
    runner, connection, it = opened
    numbers = itertools.count(1)
    did: Counter[str] = Counter()

    async def live(requests_: list[tuple[bool, Request]]) -> None:
        life, marks, name = Life(), map("mark {}".format, itertools.count()), f"task-{next(numbers)}"
        for in_sql, one in [*requests_, *requests_[:3]]:
            request = replace(one, task_id=name)
            answer = await (settle(connection, request) if in_sql else it.writer.submit(request))
            wanted = life.happen(request, request.digest or next(marks), 0)
            assert in_paper_words(answer) == wanted, (in_sql, request, answer)
            did["sql" if in_sql else "writer"] += 1
            did["repeats" if isinstance(answer, Receipt) and answer.repeat else getattr(answer, "code", "changes")] += 1
        key = task_key(TENANT, name)
        rows = await connection.fetch("select * from ledger.transition where key = $1 order by seq", key)
        assert len(rows) == life.paper.seq
        for row, happened in zip(rows, life.paper.log, strict=True):
            compare(row, happened)
        if life.paper.seq:
            compare_task(await connection.fetchrow("select * from ledger.head where key = $1", key), life)

    wanted = {"sql": 100, "writer": 100, "changes": 100, "repeats": 10, "task_ended": 10, "fenced": 1, "key_reused": 1}
    wanted |= {"superseded": 1, "illegal_transition": 1}
    for round_ in range(ROUNDS):

        @hypothesis.seed(seed + round_)
        @SETTINGS
        @given(asked)
        def alike(requests_: list[tuple[bool, Request]]) -> None:
            runner.run(live(requests_))

        alike()
        print(dict(did))  # noqa: T201 - what was done, shown with a failure
        if not (rare := {what: did[what] for what, times in wanted.items() if did[what] < times}):
            break
    assert not rare


async def test_a_repeat_may_come_by_the_other_way(database: str) -> None:
    """Both ways make the same key and digest of the same words."""
    async with ledger(database) as it, connected(database) as opened:
        connection: Connection = opened
        await connection.execute("select ledger.bind(current_user, 't')")
        words: dict[str, Any] = {"kind": 'im"port\n', "owner": "Zoë", "data": {"a": [1, 2.5, None]}, "lease_ms": 5_000}
        create = requests.create_request("t", messages.Create(id=1, task_id="a", **words, key="first"))
        assert await it.receipt(create)
        again = await connection.fetchrow(
            "select * from ledger.create('a', $1, $2, $3, 'first', 5000)",
            words["kind"],
            words["owner"],
            create.data and create.data.decode(),
        )
        assert (again["ok"], again["seq"], again["repeat"]) == (True, 1, True), again["message"]
        for n, value in enumerate((0.0, 1.0, 33.3, 99.99999999999999, 100.0), 1):
            told = messages.Report(
                task_id="a", attempt=1, n=n, status="running", progress=value, stage=None, message="é\t"
            )
            row = await connection.fetchrow(
                "select * from ledger.report('a', 'running', $1, null, $2, attempt => 1, n => $3, clear => '{stage}')",
                value,
                "é\t",
                n,
            )
            assert row["ok"], row["message"]
            assert not row["repeat"]
            receipt = await it.receipt(requests.report_request("t", told))
            assert (receipt.seq, receipt.repeat) == (n + 1, True)
        asked_for = requests.cancel_request("t", messages.Cancel(id=1, task_id="a", reason="enough", key="k"))
        assert not (await it.receipt(asked_for)).repeat
        assert (await connection.fetchrow("select * from ledger.cancel('a', 'enough', 'k')"))["repeat"]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("report('a b')", "bad_task_id"),
        ("report(null)", "bad_task_id"),
        ("report(repeat('a', 129))", "bad_task_id"),
        (r"report(e'a\n')", "bad_task_id"),
        ("report('a', 'lost')", "bad_request"),
        ("report('a', 'cancelling')", "bad_request"),
        ("report('a', progress => 101)", "bad_request"),
        ("report('a', progress => 'NaN')", "bad_request"),
        ("report('a', attempt => 0)", "bad_request"),
        ("report('a', attempt => 1, n => 0)", "bad_request"),
        ("report('a', attempt => 5000, n => 1)", "bad_request"),
        ("report('a', n => 1)", "bad_request"),
        ("report('a', attempt => 1, n => 1, key => 'k')", "bad_request"),
        ("report('a', attempt => 1, new_attempt => true)", "bad_request"),
        ("report('a', 'running', cancel => 'refused')", "bad_request"),
        ("report('a', cancel => 'maybe')", "bad_request"),
        ("report('a', key => '')", "bad_request"),
        ("report('a', clear => '{data}')", "bad_request"),
        ("report('a', stage => repeat('x', 257))", "bad_request"),
        ("report('a', message => repeat('x', 2049))", "bad_request"),
        ("report('a', kind => repeat('x', 129))", "bad_request"),
        ("report('a', lease_ms => 99)", "bad_request"),
        ("report('a', deadline_ms => 2592000001)", "bad_request"),
        ("report('a', data => to_json(repeat('x', 16383)))", "bad_request"),
        ("report('a', result => to_json(repeat('x', 32767)))", "bad_request"),
        ("report('a', data => (repeat('[', 300) || repeat(']', 300))::json)", "bad_request"),
        ("report('a', cancel => 'delivered')", "illegal_transition"),
        ("cancel('a', repeat('x', 2049))", "bad_request"),
        ("create('a', owner => repeat('x', 129))", "bad_request"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(sql: Connection, call: str, code: str) -> None:
    """With the bounds of the other ways; the caller's transaction goes on."""
    async with sql.transaction():
        row = await sql.fetchrow(f"select * from ledger.{call}")
        assert (row["ok"], row["code"]) == (False, code)
        assert row["message"].endswith(".")
        assert await sql.fetchval("select count(*) from ledger.task") == 0


async def test_a_payload_is_kept_on_one_line(sql: Connection) -> None:
    """A line end would cut a server-sent event in two; inside strings they are escaped anyway."""
    await sql.execute("""select ledger.report('a', data => e'{"a":\\n\\t[1,\\r\\n 2], "b": "x\\\\ny"}')""")
    data = await sql.fetchval("select data::text from ledger.transition")
    assert data == '{"a":  [1,   2], "b": "x\\ny"}'
