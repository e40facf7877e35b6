"""The writer's queue: full, closing, and left by those who asked."""

from __future__ import annotations

import asyncio

import pytest

from ledger.errors import Busy, OutcomeUnknown, Unavailable
from ledger.model import (
    Receipt,
)
from ledger.pending import BATCH_BYTES
from ledger.writer import QUEUE_BYTES
from tests.support.ledgers import appends_waiting, ledger, messages, place_held, report, sequences
from tests.support.waiting import eventually


async def test_a_full_queue_says_busy_and_takes_reports_again_later(database: str) -> None:
    """At the bound a report is refused at once, with a time to come back; those that were taken are all committed."""
    async with ledger(database, queue_limit=50) as it:
        await it.receipt(report(progress=0))
        async with place_held(database, "a"):
            taken = [it.writer.submit(report(progress=1)) for _ in range(50)]
            with pytest.raises(Busy) as refused:
                await it.writer.submit(report(progress=1))
            assert refused.value.retry_after_ms
            assert it.writer.waiting == 50
        answers = await asyncio.gather(*taken)
        assert [answer.seq for answer in answers if isinstance(answer, Receipt)] == list(range(2, 52))
        assert it.writer.waiting == 0
        assert (await it.receipt(report(progress=2))).seq == 52


async def test_a_queue_is_full_of_bytes_too(database: str) -> None:
    """Large payloads are refused before they fill the memory; what was taken is committed, and there is room again."""
    large = b'"' + b"x" * 1_000_000 + b'"'
    async with ledger(database) as it:
        await it.receipt(report(progress=0))
        async with place_held(database, "a"):
            taken = [it.writer.submit(report(data=large)) for _ in range(QUEUE_BYTES // len(large))]
            with pytest.raises(Busy):
                await it.writer.submit(report(data=large))
            small = it.writer.submit(report(progress=1))
        assert [answer.seq for answer in await asyncio.gather(*taken) if isinstance(answer, Receipt)]
        assert isinstance(await small, Receipt)
        assert (await it.receipt(report(data=large))).seq == len(taken) + 3


async def test_close_commits_what_is_queued_and_takes_no_more(database: str) -> None:
    """At the end nothing that was taken is dropped."""
    async with ledger(database, batch_limit=10) as it:
        answers = [it.writer.submit(report(f"task-{i % 7}", message=str(i))) for i in range(300)]
        await it.close(5.0)
        assert all(answer.done() and isinstance(answer.result(), Receipt) for answer in answers)
        with pytest.raises(Unavailable):
            await it.writer.submit(report(message="late"))
    assert len(await messages(database)) == 300


async def test_close_does_not_call_unwritten_what_it_has_sent(database: str) -> None:
    """When its time is over, a report whose statement is under way is unknown; one that never left is unavailable."""
    async with ledger(database, batch_limit=1, write_pool_max=1) as it:
        await it.receipt(report(message="begin"))
        async with place_held(database, "a"):
            under_way = it.writer.submit(report(message="under way"))
            queued = it.writer.submit(report(message="queued"))
            await eventually(lambda: appends_waiting(database))
            await it.close(0.05)
            with pytest.raises(OutcomeUnknown):
                await under_way
            with pytest.raises(Unavailable):
                await queued
    assert (await messages(database))["queued"] == 0


async def test_a_caller_that_goes_away_harms_nobody(database: str) -> None:
    """A cancelled wait neither loses the report nor disturbs the others of its batch."""
    async with ledger(database, write_pool_max=1) as it:
        answers = [it.writer.submit(report(message=str(i))) for i in range(10)]
        answers[3].cancel()
        kept = await asyncio.gather(*(answer for answer in answers if not answer.cancelled()))
        assert len(kept) == 9
        assert all(isinstance(answer, Receipt) for answer in kept)
    await sequences(database)


async def test_a_batch_is_bounded_in_bytes_too(database: str) -> None:
    """Small reports behind large ones do not wait for one statement of them all, which may take too long for ever."""
    large = b'"' + b"y" * 30_000 + b'"'
    async with ledger(database, write_pool_max=1) as it:
        await asyncio.gather(*(it.receipt(report(f"a-{place}", result=large)) for place in range(400)))
        assert it.lane.appends == -(-400 // (BATCH_BYTES // len(large) + 1))
