"""What is read from the ledger: snapshots with the payloads in force, replay pages. No HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ledger.errors import Unavailable
from ledger.machine import CancelStage, Liveness, Status
from ledger.model import Cancel, CancelRequest, Head, Report, Transition
from ledger.reader import REPLAY_BYTES, REPLAY_ROWS
from tests.support.limits import QUICK
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.reading import Ledger, ledger
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture
async def it(shared_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    async with ledger(shared_database, request.node.name) as running:
        yield running


# Snapshots


async def test_a_snapshot_has_the_payloads_in_force(it: Ledger) -> None:
    """Data, result and error are each the newest that was given, whichever transition brought it."""
    await it.write(it.create("a", kind="import", owner="alice", data=b'{"n": 0}'))
    created = await it.task()
    assert (created.data, created.result, created.error) == (b'{"n": 0}', None, None)
    await it.write(
        it.report(status=Status.RUNNING, data=b'{"n": 1}', error=b'"first"'),
        it.report(progress=10, stage="s", message="m"),
        it.report(data=b'{"n":   2, "n": 3}'),
        it.report(progress=20),
    )
    running = await it.task()
    assert (running.data, running.result, running.error) == (b'{"n":   2, "n": 3}', None, b'"first"'), "kept as it came"
    assert (running.progress, running.stage, running.message) == (20, "s", "m")
    await it.write(it.report(status=Status.COMPLETED, result=b"[1, 2]", stage=None))
    ended = await it.task()
    assert (ended.kind, ended.owner, ended.status, ended.seq, ended.attempt) == ("import", "alice", "completed", 6, 0)
    assert (ended.data, ended.result, ended.error) == (b'{"n":   2, "n": 3}', b"[1, 2]", b'"first"')
    assert (ended.stage, ended.message) == (None, "m")
    assert ended.created_at == created.created_at
    assert ended.updated_at > running.updated_at > created.updated_at
    assert ended.beat_at == ended.updated_at


async def test_a_payload_can_be_cleared_with_null(it: Ledger) -> None:
    """`null` is what was said last, not nothing said."""
    await it.write(it.report(data=b"[1]", error=b"{}"), it.report(data=b"null", error=b"null"), it.report(progress=1))
    task = await it.task()
    assert (task.data, task.result, task.error) == (b"null", None, b"null")


async def test_snapshots_of_many_tasks_come_at_once(it: Ledger) -> None:
    """Those that exist come, each with its own payloads; the others are missing, and so are those of other tenants."""
    await it.write(*(it.report(f"task-{i}", data=str(i).encode(), progress=i) for i in range(30)))
    await it.write(Report(tenant="somebody-else", task_id="task-99", progress=1))
    found = await it.reader.tasks([it.key(f"task-{i}") for i in range(0, 60, 2)] + [it.key("task-99")])
    assert {(task.task_id, task.data) for task in found} == {(f"task-{i}", str(i).encode()) for i in range(0, 30, 2)}
    heads = await it.reader.heads([it.key("task-1"), it.key("task-31")])
    age_ms = heads[it.key("task-1")].beat_age_ms
    assert age_ms is not None
    assert age_ms >= 0
    head = Head(seq=1, status=Status.RUNNING, liveness=Liveness.LIVE, beat_age_ms=age_ms)
    assert heads == {it.key("task-1"): head}


async def test_a_snapshot_tells_how_far_a_cancel_has_come(it: Ledger) -> None:
    """The stage moves, the sequence and the reason of the request stay."""
    await it.write(it.report(), CancelRequest(tenant=it.tenant, task_id="a", reason="too slow"))
    assert (await it.task()).cancel == Cancel(stage=CancelStage.RECORDED, seq=2, reason="too slow")
    await it.write(it.report(cancel="delivered"))
    assert (await it.task()).cancel == Cancel(stage=CancelStage.DELIVERED, seq=2, reason="too slow")
    await it.write(it.report(status=Status.CANCELLED))
    task = await it.task()
    assert (task.status, task.cancel) == ("cancelled", Cancel(stage=CancelStage.HONOURED, seq=2, reason="too slow"))


# Replay


async def all_pages(it: Ledger, cursors: list[tuple[str, int]], **given: Any) -> tuple[list[Transition], list[int]]:
    """Read on from where each page ended until there is no more; also the sizes of the pages."""
    out: list[Transition] = []
    sizes = []
    while page := await it.reader.replay(cursors, **given):
        out += page
        sizes.append(len(page))
        reached = {transition.key: transition.seq for transition in page}
        cursors = [(key, reached.get(key, after)) for key, after in cursors]
    return out, sizes


async def test_replay_gives_pages_of_rows(it: Ledger) -> None:
    """However small the pages are, together they are every transition after each cursor, once, in order of the task."""
    await it.write(*(it.report(f"task-{i % 3}", progress=i % 100, message=str(i)) for i in range(90)))
    cursors = [(it.key("task-2"), 0), (it.key("task-0"), 25), (it.key("nobody"), 0), (it.key("task-1"), 30)]
    expected = [("task-2", seq) for seq in range(1, 31)] + [("task-0", seq) for seq in range(26, 31)]
    for limit, most in ((1, 35), (7, 5), (500, 1)):
        got, sizes = await all_pages(it, cursors, limit=limit)
        assert sorted((step.task_id, step.seq) for step in got) == sorted(expected)
        assert max(sizes) <= limit
        assert len(sizes) == most
    whole = await it.reader.replay(cursors)
    assert [(step.task_id, step.seq) for step in whole] == expected, "in the order of the cursors"
    assert [step.message for step in whole[:30]] == [str(i) for i in range(2, 90, 3)]


async def test_a_replay_page_has_a_bound_that_no_caller_can_lift(it: Ledger) -> None:
    """Asking for more rows than a page may have gets a page."""
    await it.write(*(it.report(progress=i % 100) for i in range(REPLAY_ROWS + 20)))
    page = await it.reader.replay([(it.key("a"), 0)], limit=10 * REPLAY_ROWS)
    assert [step.seq for step in page] == list(range(1, REPLAY_ROWS + 1))
    assert len((await all_pages(it, [(it.key("a"), 0)]))[0]) == REPLAY_ROWS + 20


async def test_replay_gives_pages_of_bytes(it: Ledger) -> None:
    """A page ends before its payloads are too many bytes, but always has one transition."""
    large = b'"' + b"x" * 20_000 + b'"'
    await it.write(*(it.report("large", data=large, result=large if i % 2 else None) for i in range(40)))
    await it.write(it.report("huge", data=b'"' + b"y" * (2 * REPLAY_BYTES) + b'"'), it.report("huge", progress=1))
    got, sizes = await all_pages(it, [(it.key("large"), 0)])
    assert [step.seq for step in got] == list(range(1, 41))
    assert [step.result is not None for step in got] == [False, True] * 20
    assert len(sizes) >= 40 * 1.5 * 20_000 / REPLAY_BYTES
    assert max(sizes) <= 12
    got, sizes = await all_pages(it, [(it.key("huge"), 0), (it.key("large"), 39)])
    assert [(step.task_id, step.seq) for step in got] == [("huge", 1), ("huge", 2), ("large", 40)]
    assert sizes[0] == 1


async def test_what_follows_several_cursors_is_cut_by_bytes_in_their_order(it: Ledger) -> None:
    """Small rows and large ones, from other places each time: no hole, no repeat, each cursor by its place."""
    large = b'"' + b"x" * (REPLAY_BYTES // 10) + b'"'
    names = [f"task-{i}" for i in range(6)]
    await it.write(*(it.report(name, progress=i, data=large if i % 3 else b"1") for i in range(8) for name in names))
    after = {(name, begun): begun for name in names for begun in (0, 5)}  # a task may be asked for at several places
    got: dict[tuple[str, int], list[int]] = {each: [] for each in after}
    asked = 0
    while found := await it.reader.pages([(it.key(each[0]), seq) for each, seq in after.items()], each=7, limit=40):
        asked += 1
        rows = [step for page in found.values() for step in page]
        assert len(rows) <= 40
        assert len(rows) == 1 or sum(len(step.data or b"") for step in rows) <= REPLAY_BYTES
        for place, page in found.items():
            asked_for = list(after)[place]
            assert page[0].seq == after[asked_for] + 1
            assert len(page) <= 7
            got[asked_for] += [step.seq for step in page]
            after[asked_for] = page[-1].seq
        assert list(found) == sorted(found)
    assert got == {(name, begun): list(range(begun + 1, 9)) for name, begun in after}
    assert asked >= 6 * (5 + 2) * len(large) / REPLAY_BYTES


# Trouble


async def test_a_read_that_cannot_be_answered_is_unavailable(shared_database: str) -> None:
    """Never unknown, as a read has no outcome; and the next one after the outage succeeds."""
    async with Proxy(address_of(shared_database)) as proxy:
        async with ledger(through(shared_database, proxy.port), "trouble", **QUICK) as it:
            await it.write(it.report())
            epoch = await it.reader.epoch()
            for link in (Link.RESET, Link.MUTE, Link.STALL):
                proxy.set(link)
                with pytest.raises(Unavailable) as raised:
                    await it.reader.task("trouble", "a")
                assert raised.value.retry_after_ms
                proxy.set(Link.PASS)
                async with asyncio.timeout(WAIT_SECONDS):
                    while True:
                        try:
                            assert await it.reader.epoch() == epoch
                            break
                        except Unavailable as error:  # the pause after a failed attempt to connect
                            await asyncio.sleep((error.retry_after_ms or 10) / 1000)
