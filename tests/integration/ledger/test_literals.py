"""That PostgreSQL reads array literals as they are meant: in the casts of the statements, and in the real writer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ledger.literals import payloads, texts, words, words_or_null
from ledger.machine import CancelStage, Status
from ledger.model import CancelRequest, Create, Receipt, Rejection, Report, fingerprint
from ledger.sql import query
from tests.support.node import TENANT, node
from tests.support.postgres import Cluster

SETTINGS: Final = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES: Final = ("advance", "append")
Read = Callable[[str, str, int], list[Any]]

TRICKY: Final = (
    "", "NULL", "null", '"', "\\", '\\"', "{", "}", "{}", ",", "a,b", "{NULL,NULL}", "'", "$1", "%s", " ", "\t\n\r",
    "\x1f", "\x01\x7f", "e'\\x1f'", "\u2028", "é", "☃", "\U0001f600", "\uffff", "\\x00", "--", "/*", "a" * 300,
)  # fmt: skip
# PostgreSQL's text has no NUL, and UTF-8 no lone surrogate; the gateway lets neither through.
any_text = st.sampled_from(TRICKY) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(any_text, parts, max_size=3),
    max_leaves=8,
)
any_payload = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only).encode(), any_json, st.booleans()
)


def columns(element: st.SearchStrategy[Any], *, nulls: bool = True) -> st.SearchStrategy[list[Any]]:
    """A column as a statement has it: one element at least."""
    return st.lists(st.none() | element if nulls else element, min_size=1, max_size=12)


@pytest.fixture(scope="module")
def read(cluster: Cluster) -> Iterator[Read]:
    """What PostgreSQL makes of a literal by an expression of the statements, beside a column of so many numbers."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(cluster.dsn))

        async def ask(expression: str, literal: str, size: int) -> list[Any]:
            sql = f"select e from unnest({expression}, $2::text::bigint[]) with ordinality as u (e, n, i) order by i"
            rows = await connection.fetch(sql, literal, words(range(size)), timeout=20)
            return [row["e"] for row in rows]

        try:
            yield lambda expression, literal, size: runner.run(ask(expression, literal, size))
        finally:
            connection.terminate()


def in_statements(expression: str) -> str:
    """The expression, which has to be one of the writer's."""
    assert any(expression.replace("$1", f"${number}") in query(name) for name in NAMES for number in range(1, 40))
    return expression


@SETTINGS
@given(columns(any_text))
@example([None])
@example([""])
@example(list(TRICKY))
def test_any_text_comes_through(read: Read, column: list[str | None]) -> None:
    """Whatever people write, and nothing at all, which is another thing than the word for it."""
    assert read(in_statements("$1::text::text[]"), texts(column), len(column)) == column


@SETTINGS
@given(columns(any_payload))
@example([None])
@example([None, None])
@example([b"null"])
@example([b'""', None, b'"\\u001f"'])
def test_any_json_comes_through_as_it_was_written(read: Read, column: list[bytes | None]) -> None:
    """Byte by byte; a column of one nothing is as long as the others."""
    in_statements("string_to_array($1::text, e'\\x1f', '')::json[]")
    rows = read("string_to_array($1::text, e'\\x1f', '')::json[]::text[]", payloads(column), len(column))
    assert [None if text is None else text.encode() for text in rows] == column


@SETTINGS
@given(columns(st.floats(allow_nan=False) | st.integers(0, 100)))
@example([0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1e16, None])
def test_any_number_comes_through_exactly(read: Read, column: list[float | None]) -> None:
    """The same bits, as far as Python can tell, also at the ends of what a double holds."""
    came = read(in_statements("$1::text::double precision[]"), words_or_null(column), len(column))
    assert came == column
    assert [str(value) for value in came if value is not None] == [
        str(float(value)) for value in column if value is not None
    ]


@SETTINGS
@given(columns(st.integers(-(2**63), 2**63 - 1)), columns(st.booleans(), nulls=False), columns(st.uuids()))
@example([None], [True], [None])
def test_numbers_truth_values_and_uuids_come_through(
    read: Read, numbers: list[int | None], flags: list[bool], ids: list[UUID | None]
) -> None:
    """And words of ours, which need no quotes either."""
    assert read(in_statements("$1::text::bigint[]"), words_or_null(numbers), len(numbers)) == numbers
    assert read(in_statements("$1::text::boolean[]"), words(flags), len(flags)) == flags
    hexes = [None if one is None else one.hex for one in ids]
    assert read(in_statements("$1::text::uuid[]"), words_or_null(hexes), len(ids)) == ids
    enums: list[str] = [*Status, *CancelStage]
    assert read(in_statements("$1::text::text[]"), words(enums), len(enums)) == enums


async def test_what_people_write_is_read_back_as_they_wrote_it(database: str) -> None:
    """Through both statements of the real writer: every text in every place of a task, also as a task's name."""
    names = ("NULL", "null", "Null", "true", "0", "1e5", "a.b:c-d_e")
    async with node(database) as it:
        for number, text in enumerate(TRICKY):
            task_id = names[number % len(names)] + "." * (number // len(names))
            payload = json.dumps({text: [text]}).encode()
            digest = fingerprint(text)
            await it.receipt(
                Create(tenant=TENANT, task_id=task_id, idem=digest, digest=digest, kind=text, data=payload)
            )
            await it.receipt(Report(tenant=TENANT, task_id=task_id, owner=text, result=payload, error=payload))
            await it.receipt(Report(tenant=TENANT, task_id=task_id, stage=text, message=text, data=b'"other"'))
            await it.receipt(CancelRequest(tenant=TENANT, task_id=task_id, reason=text))
            task = await it.task(task_id)
            assert (task.task_id, task.kind, task.owner, task.stage, task.message) == (task_id, *[text] * 4)
            assert (task.data, task.result, task.error) == (b'"other"', payload, payload)
            assert task.cancel is not None
            assert task.cancel.reason == text
            assert await it.reader.replay([(task.key, 0)]) == it.heard.of(task_id)


@pytest.mark.parametrize(
    "poison",
    [
        {"data": b'"a\x1fb"'},
        {"data": b"\x1f"},
        {"result": b"1\x1f2"},
        {"error": b'"\xff"'},
        {"data": b"{"},
        {"data": b"1 2"},
        {"stage": "\0"},
        {"message": "\ud800"},
        {"owner": "a\udfff"},
    ],
    ids=repr,
)
async def test_what_cannot_be_written_harms_no_other(database: str, poison: dict[str, Any]) -> None:
    """Among reports that go either way, one that no statement can hold is refused alone; others keep their order."""
    async with node(database, write_pool_max=1) as it:
        names = [f"task-{number}" for number in range(8)]
        await asyncio.gather(*(it.receipt(Report(tenant=TENANT, task_id=name)) for name in names))
        said: list[Report] = []
        for number in range(3):
            said += [Report(tenant=TENANT, task_id=name, progress=number, data=b"%d" % number) for name in names[:4]]
            said += [Report(tenant=TENANT, task_id=name, result=b"[%d]" % number) for name in names[4:]]
        bad = Report(tenant=TENANT, task_id="task-3", **poison)
        said.insert(13, bad)
        answers: Sequence[Receipt | Rejection] = await asyncio.gather(*(it.writer.submit(each) for each in said))
        for report, answer in zip(said, answers, strict=True):
            if report is bad:
                assert isinstance(answer, Rejection), answer
                assert answer.code == "bad_request"
                assert answer.message
            else:
                assert isinstance(answer, Receipt), answer
        for name in names[:4]:
            assert [step.data for step in await it.reader.replay([((await it.task(name)).key, 1)])] == [
                b"0",
                b"1",
                b"2",
            ]
        for name in names[4:]:
            steps = await it.reader.replay([((await it.task(name)).key, 1)])
            assert [step.result for step in steps] == [b"[0]", b"[1]", b"[2]"]
