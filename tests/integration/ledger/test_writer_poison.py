"""What the database or a reader of JSON does not take: a bad report is rejected alone."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from ledger.model import (
    Receipt,
    Rejection,
)
from tests.support.ledgers import ledger, messages, report, sequences
from tests.support.node import TENANT

POISON: dict[str, dict[str, Any]] = {
    "invalid json": {"data": b'{"a": '},
    "no json at all": {"result": b"\x00"},
    "not utf-8": {"error": b'"\xff"'},
    "json nested 100,000 deep": {"data": b"[" * 100_000 + b"]" * 100_000},
    "NUL in a text": {"message": "a\0b"},
    "lone surrogate in a text": {"stage": "\ud800"},
    "lone surrogate in the owner": {"owner": "\udfff"},
    "attempt beyond int4": {"attempt": 2**31},
    "attempt beyond int8": {"attempt": 2**70},
    "n beyond int4": {"attempt": 1, "n": 2**31, "digest": f"{7:032x}"},
}


@pytest.mark.parametrize("kind", POISON)
async def test_a_poison_report_is_rejected_alone(shared_database: str, kind: str) -> None:
    """What the database cannot take, on a known task and on a new one, is rejected; 99 good ones beside it are not."""
    say = functools.partial(report, tenant=kind)
    async with ledger(shared_database, write_pool_max=1) as it:
        await it.receipt(say("shared", progress=0))
        good = [it.writer.submit(say("shared" if i % 2 else f"own-{i}", message=f"good {i}")) for i in range(50)]
        poison = [it.writer.submit(say(task_id, **POISON[kind])) for task_id in ("shared", "unheard-of")]
        good += [it.writer.submit(say("shared" if i % 2 else f"own-{i}", message=f"good {i}")) for i in range(50, 99)]
        answers = await asyncio.gather(*good)
        for rejection in await asyncio.gather(*poison):
            assert isinstance(rejection, Rejection), rejection
            assert rejection.code == "bad_request"
            assert len(rejection.message) > 10
        assert all(isinstance(answer, Receipt) for answer in answers), answers
        shared = [answer.seq for answer in answers if isinstance(answer, Receipt) and answer.task_id == "shared"]
        assert shared == list(range(2, 51)), "in the order they were sent"
        assert it.heard.seqs("shared") == list(range(1, 51))
    assert sum((await messages(shared_database, kind)).values()) == 99
    await sequences(shared_database)


async def test_json_that_only_some_readers_like_is_kept_as_it_came(database: str) -> None:
    """A number beyond every double and an escaped NUL are valid JSON: no poison for a column that keeps the text."""
    async with ledger(database) as it:
        await it.receipt(report(data=b'{"a": 1e400000}', result=b'"\\u0000"'))
        task = await it.reader.task(TENANT, "a")
        assert task is not None
        assert (task.data, task.result) == (b'{"a": 1e400000}', b'"\\u0000"')


async def test_poison_does_not_change_the_order_of_reports_that_lost_their_race(database: str) -> None:
    """A batch halved for its poison, while another gateway was faster: earlier reports still go before later ones."""
    async with ledger(database, write_pool_max=1) as one, ledger(database) as two:
        await one.receipt(report(progress=0))
        await two.receipt(report(progress=1))  # `one` does not know of it
        first = one.writer.submit(report(attempt=1, n=1, progress=10))
        poison = one.writer.submit(report("b", message="\0"))
        second = one.writer.submit(report(attempt=1, n=2, progress=20))
        answers = await asyncio.gather(first, poison, second)
        assert isinstance(answers[1], Rejection)
        assert [answer.seq for answer in (answers[0], answers[2]) if isinstance(answer, Receipt)] == [3, 4], answers
    await sequences(database)
