"""The writer when answers are lost, or the database is away: no false "written", and no false "not written"."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from ledger.errors import LedgerError, OutcomeUnknown, Unavailable
from ledger.model import (
    Receipt,
    Rejection,
)
from tests.support.ledgers import Ledger, appends_waiting, ledger, messages, place_held, report, sequences
from tests.support.node import connected
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually, pace

QUICK: dict[str, Any] = {
    "command_timeout_seconds": 0.4,
    "connect_timeout_seconds": 0.3,
    "acquire_timeout_seconds": 0.3,
    "statement_timeout_ms": 300,
    "lock_timeout_ms": 200,
    "request_deadline_seconds": 1.0,
}


# Unknown outcomes


class Sent:
    """What a worker sent under one name, and what it was told."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.unknown = 0
        self.unavailable = 0


async def test_no_broken_link_makes_a_report_count_twice_or_get_lost(database: str, seed: int) -> None:
    """Under resets and stalls: what has a receipt is there once, what is `Unavailable` is not, nothing is there twice.

    A worker with a number or a key repeats until it has its receipt; one without stops asking.
    """
    dice = random.Random(seed)
    sent: dict[str, Sent] = {}
    stop = asyncio.Event()

    async def work(it: Ledger, task_id: str, by: str, who: int = 0) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"{task_id} {who} {number}"
            record = sent[name] = Sent()
            names: dict[str, dict[str, Any]] = {
                "number": {"attempt": 1, "n": number},
                "key": {"key": name},
                "nothing": {},
            }
            said = report(
                task_id,
                message=name,
                **names[by],
            )
            while not record.receipts:
                try:
                    record.receipts.append(await it.receipt(said))
                except OutcomeUnknown:
                    record.unknown += 1
                    if by == "nothing":
                        break
                except Unavailable:
                    record.unavailable += 1
                    await pace(stop, 0.01)  # its back-off
                    if not record.unknown:
                        break

    def acknowledged() -> int:
        return sum(len(record.receipts) for record in sent.values())

    async def harm(proxy: Proxy) -> None:
        faults = [Link.RESET] * 6 + [Link.MUTE] * 4 + [Link.STALL] * 4
        dice.shuffle(faults)
        for link in faults:
            before = acknowledged()
            await eventually(lambda before=before: acknowledged() >= before + 20)  # type: ignore[misc]
            await asyncio.sleep(dice.uniform(0.0, 0.01))  # at any point of a statement
            proxy.set(link)
            # Some outlast a statement's time but not the reports' wait, some outlast both, some neither.
            long = {Link.RESET: (0.0, 0.02), Link.STALL: (0.05, 0.8), Link.MUTE: (0.5, 0.9)}[link]
            await asyncio.sleep(dice.uniform(*long))
            proxy.set(Link.PASS)

    async with Proxy(address_of(database)) as proxy:
        async with ledger(through(database, proxy.port), queue_wait_seconds=0.5, batch_limit=10, **QUICK) as it:
            workers = [
                asyncio.create_task(work(it, f"{by}-{place}", by))
                for by in ("number", "key", "nothing")
                for place in range(4)
            ]
            # Several without a key on one task, in one statement: each must find its own transition again.
            workers += [asyncio.create_task(work(it, "crowd", "nothing", who)) for who in range(4)]
            await harm(proxy)
            stop.set()
            await asyncio.gather(*workers)
            lost = it.lane.lost
    in_ledger = await messages(database)
    await sequences(database)
    outcomes = Counter(
        (bool(record.receipts), bool(record.unknown), bool(record.unavailable)) for record in sent.values()
    )
    print(f"{lost=} {outcomes=}")  # noqa: T201 - pytest shows it with a failure
    assert acknowledged() >= 280
    assert lost >= 4, "statements lost their answer"
    for name, record in sent.items():
        if record.receipts:
            assert in_ledger[name] == 1, f"{name} was acknowledged and is there {in_ledger[name]} times"
        elif record.unknown:
            assert in_ledger[name] <= 1, f"{name} is there {in_ledger[name]} times"
        elif record.unavailable:
            assert in_ledger[name] == 0, f"{name} was said not to be written, and is there"
    assert any(record.receipts and record.unknown for record in sent.values()), "an unknown outcome was resolved"


async def test_receipts_name_the_place_where_the_report_is(database: str, seed: int) -> None:
    """After any number of lost answers, the sequence in a receipt is that of the very report."""
    dice = random.Random(seed)
    receipts: dict[str, Receipt] = {}
    async with Proxy(address_of(database)) as proxy:
        async with ledger(through(database, proxy.port), batch_limit=5) as it:

            async def work(who: int) -> None:
                for number in range(25):
                    name = f"{who}.{number}"
                    receipts[name] = await it.receipt(report(f"task-{who % 2}", message=name))

            workers = asyncio.gather(*(work(who) for who in range(6)))
            for resets in range(1, 9):
                await eventually(lambda resets=resets: len(receipts) >= 12 * resets)  # type: ignore[misc]
                await asyncio.sleep(dice.uniform(0, 0.01))
                proxy.set(Link.RESET)
                proxy.set(Link.PASS)
            await workers
    async with connected(database) as connection:
        rows = await connection.fetch(
            "select t.task_id, p.seq, p.message from ledger.transition p join ledger.task t using (key)"
        )
    assert {row["message"]: (row["task_id"], row["seq"]) for row in rows} == {
        name: (receipt.task_id, receipt.seq) for name, receipt in receipts.items()
    }
    assert len(rows) == 150
    assert not any(receipt.repeat for receipt in receipts.values()), "nobody sent anything twice"


async def test_a_statement_that_commits_late_is_found_wherever_it_put_the_report(database: str) -> None:
    """Two lost statements had one report at different places: the one that commits is found, no copy is made."""
    async with Proxy(address_of(database)) as proxy:
        async with ledger(through(database, proxy.port), queue_wait_seconds=1.0, write_pool_max=1) as it:
            await it.receipt(report("a", message="begin"))
            await it.receipt(report("other", message="begin"))
            # The place of the later one: the first statement puts the early one before it, and only then has to wait.
            async with place_held(database, "a", ahead=2):
                async with place_held(database, "other"):
                    other = it.writer.submit(report("other", message="other"))
                    await eventually(lambda: appends_waiting(database))
                    early = it.writer.submit(report("a", message="early"))
                    it.writer._queue_wait_seconds = 60.0  # only the early one is to give up
                    late = it.writer.submit(report("a", message="late"))
                await other
                # One statement with both; its answer is lost, and it goes on waiting in the server.
                await eventually(lambda: appends_waiting(database))
                proxy.set(Link.RESET)
                with pytest.raises(OutcomeUnknown):
                    await early
                # One statement with the later one alone, at the place of the earlier: it waits for the first, and its
                # answer is lost too.
                proxy.set(Link.PASS)
                await eventually(lambda: _at_least(2, appends_waiting(database)))
                proxy.set(Link.RESET)
            await eventually(lambda: _written(database, "early"))
            proxy.set(Link.PASS)
            with_receipt = await late
            assert isinstance(with_receipt, Receipt)
    assert await messages(database) == {"begin": 2, "other": 1, "early": 1, "late": 1}
    assert with_receipt.seq == 3


async def test_a_report_is_not_taken_for_another_that_says_the_same(database: str) -> None:
    """A report that was never written is not acknowledged because another of the same content took its place."""
    async with Proxy(address_of(database)) as proxy, ledger(database) as two:
        async with ledger(through(database, proxy.port), write_pool_max=1) as one:
            await one.receipt(report(progress=0))
            async with place_held(database, "a"):
                lost = one.writer.submit(report(attempt=1, n=1, progress=50))
                waiting = await eventually(lambda: appends_waiting(database))
                proxy.set(Link.RESET)
                async with connected(database) as connection:
                    await connection.execute("select pg_terminate_backend($1)", waiting[0])
            assert (await two.receipt(report(attempt=2, n=1, progress=50))).seq == 2
            proxy.set(Link.PASS)
            answer = await lost
            assert isinstance(answer, Rejection), answer
            assert answer.code == "fenced"


async def test_an_outage_longer_than_the_wait_is_unavailable_and_then_over(database: str) -> None:
    """Reports wait for the database for a while, then are told that nothing was written; afterwards all goes on."""
    async with Proxy(address_of(database)) as proxy:
        async with ledger(through(database, proxy.port), queue_wait_seconds=0.3) as it:
            await it.receipt(report(message="before"))
            proxy.set(Link.RESET)
            with pytest.raises(LedgerError):  # sent on a connection that seemed to be there: nobody can know
                await it.receipt(report(message="into the dark", attempt=1, n=1))
            waiting = [it.writer.submit(report(message=f"during {i}")) for i in range(20)]
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in errors} == {Unavailable}
            assert all(isinstance(error, LedgerError) and error.retry_after_ms for error in errors)
            proxy.set(Link.PASS)

            async def repeated() -> Receipt | None:
                try:
                    return await it.receipt(report(message="into the dark", attempt=1, n=1))
                except LedgerError:
                    return None

            found = await eventually(repeated)
            assert found is not None
            assert found.seq == 2
            assert (await it.receipt(report(message="after"))).seq == 3
    assert await messages(database) == {"before": 1, "into the dark": 1, "after": 1}


# The queue and the end


async def _at_least(count: int, found: Awaitable[Sequence[object]]) -> bool:
    return len(await found) >= count


async def _written(dsn: str, message: str) -> bool:
    return (await messages(dsn))[message] > 0
