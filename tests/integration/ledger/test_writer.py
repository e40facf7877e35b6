"""The writer's promises, on a real database: one answer and one effect per report, and no holes.

No HTTP. What the ledger holds is read from its tables by a connection of the test's own.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from ledger.batch import Answer
from ledger.machine import CancelStage, Status
from ledger.model import (
    CancelRequest,
    Create,
    Receipt,
    Transition,
    task_key,
)
from tests.support.ledgers import Ledger, ledger, messages, report, sequences
from tests.support.node import TENANT, Heard, connected
from tests.support.waiting import WAIT_SECONDS, eventually


class FaultyWatcher(Heard):
    """A listener that fails at whatever it is told."""

    told = 0

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        self.told += 1
        raise RuntimeError("a watcher is at fault")

    def reached(self, key: str, seq: int) -> None:
        self.told += 1
        raise RuntimeError("a watcher is at fault")


# Group commit


@pytest.mark.parametrize("batch_limit", [1, 7, 500])
async def test_every_report_gets_one_receipt_and_sequences_have_no_hole(database: str, batch_limit: int) -> None:
    """Sequences are 1..n per task under many concurrent submitters, however small the batches are."""
    submitters, reports, tasks = 20, 12, 4
    async with ledger(database, batch_limit=batch_limit) as it:

        async def submit(who: int) -> list[Receipt]:
            # Four at a time without waiting, as a worker does that pipelines.
            receipts: list[Receipt] = []
            for begin in range(0, reports, 4):
                numbers = range(begin, begin + 4)
                answers = await asyncio.gather(
                    *(it.receipt(report(f"task-{who % tasks}", message=f"{who}.{number}")) for number in numbers)
                )
                assert [answer.seq for answer in answers] == sorted(answer.seq for answer in answers)
                receipts += answers
            return receipts

        of_submitters = await asyncio.gather(*(submit(who) for who in range(submitters)))
        appends, told = it.lane.appends, len(it.heard.transitions)
    total = submitters * reports
    by_task: dict[str, list[int]] = defaultdict(list)
    for receipts in of_submitters:
        assert [receipt.seq for receipt in receipts] == sorted(receipt.seq for receipt in receipts)
        for receipt in receipts:
            assert not receipt.repeat
            by_task[receipt.task_id].append(receipt.seq)
    assert {f"{TENANT}/{task_id}": sorted(seqs) for task_id, seqs in by_task.items()} == await sequences(database)
    assert set((await messages(database)).values()) == {1}
    assert told == total
    assert total / batch_limit <= appends <= total
    if batch_limit == 500:
        assert appends <= total / 10, "reports that wait are committed together"


async def test_the_listener_is_told_before_the_answer_and_in_order(database: str) -> None:
    """When a receipt arrives, its transition and all before it have been told."""
    async with ledger(database, batch_limit=10) as it:

        def noted(done: asyncio.Future[Answer]) -> None:
            receipt = done.result()
            assert isinstance(receipt, Receipt)
            it.heard.order.append(("answered", receipt.task_id, receipt.seq))

        waiting = []
        for number in range(200):
            answer = it.writer.submit(report(f"task-{number % 5}", progress=number % 100))
            answer.add_done_callback(noted)
            waiting.append(answer)
        await asyncio.gather(*waiting)
        await eventually(lambda: len(it.heard.order) == 400)
    for task_id in {task_id for _, task_id, _ in it.heard.order}:
        assert it.heard.seqs(task_id) == list(range(1, 41))
        told = 0
        for what, _, seq in (event for event in it.heard.order if event[1] == task_id):
            told = seq if what == "told" else told
            assert what == "told" or told >= seq
    assert it.heard.commits >= 20


async def test_what_the_listener_is_told_is_what_a_replay_reads(database: str) -> None:
    """Live and replayed transitions are the same in every member, so that it does not matter how one got them."""
    async with ledger(database) as it:
        await asyncio.gather(
            it.receipt(
                Create(tenant=TENANT, task_id="a", idem=f"{1:032x}", digest=f"{1:032x}", data=b'{"x": "\\u00e9"}')
            ),
            it.receipt(report(status=Status.RUNNING, attempt="new", progress=0.1, stage="read", message="é")),
            it.receipt(report(progress=None, data=b"null", error=b"[1]")),
            it.receipt(CancelRequest(tenant=TENANT, task_id="a", reason="why not")),
            it.receipt(report(cancel="delivered")),
            it.receipt(report(status=Status.CANCELLED, result=b'"done"')),
        )
        replayed = await it.reader.replay([(task_key(TENANT, "a"), 0)])
        assert it.heard.transitions == replayed
    assert [step.cancel for step in replayed] == [
        None, None, None, CancelStage.RECORDED, CancelStage.DELIVERED, CancelStage.HONOURED,
    ]  # fmt: skip


# One effect


async def test_a_repeat_by_number_has_one_effect_and_the_same_answer(database: str) -> None:
    """The same (attempt, n) again gets the first sequence, also later, also in the same batch, also after the end."""
    async with ledger(database) as it:
        said = [report(attempt=1, n=n, progress=n) for n in (1, 2, 3)]
        last = report(attempt=1, n=4, status=Status.COMPLETED)
        together = await asyncio.gather(*(it.receipt(each) for each in (*said, *said, last)))
        later = [await it.receipt(each) for each in (*said, last)]
        assert [receipt.seq for receipt in together] == [1, 2, 3, 1, 2, 3, 4]
        assert [receipt.repeat for receipt in together] == [False] * 3 + [True] * 3 + [False]
        assert [(receipt.seq, receipt.status, receipt.repeat) for receipt in later] == [
            (1, "running", True), (2, "running", True), (3, "running", True), (4, "completed", True),
        ]  # fmt: skip
        reused = await it.rejection(report(attempt=1, n=2, progress=99))
        assert reused.code == "key_reused"
        assert it.heard.known == {task_key(TENANT, "a"): 4}, "a repeat tells the listener how far the task has come"
    assert await sequences(database) == {"t/a": [1, 2, 3, 4]}


async def test_a_repeat_by_key_has_one_effect_and_the_same_answer(database: str) -> None:
    """A key is good within its task: there it finds the first report, in another task it is new."""
    async with ledger(database) as it:
        first = await asyncio.gather(*(it.receipt(report(key="k", attempt="new", progress=1)) for _ in range(5)))
        assert [(receipt.seq, receipt.attempt) for receipt in first] == [(1, 1)] * 5
        assert sorted(receipt.repeat for receipt in first) == [False, True, True, True, True]
        assert (await it.receipt(report("b", key="k", progress=2))).repeat is False
        assert (await it.rejection(report(key="k", progress=2))).code == "key_reused"
    assert await sequences(database) == {"t/a": [1], "t/b": [1]}


async def test_two_writers_on_one_database_give_every_report_one_effect(database: str, seed: int) -> None:
    """Two gateways get the same reports at once: both give the same answers, and neither leaves a hole."""
    dice = random.Random(seed)
    tasks, workers, reports = 3, 4, 25
    conflicts = 0
    async with ledger(database, batch_limit=8) as one, ledger(database, batch_limit=8) as two:

        async def work(worker: int) -> list[tuple[Receipt, Receipt]]:
            answers = []
            for number in range(reports):
                task_id = f"task-{dice.randrange(tasks)}"
                said = report(task_id, key=f"{worker}.{number}", message=f"{worker}.{number}")
                # To both at once: a worker that lost its connection and went to the other gateway looks like this.
                answers.append(await asyncio.gather(one.receipt(said), two.receipt(said)))
            return [(first, second) for first, second in answers]

        async def count(it: Ledger) -> list[tuple[Receipt, Receipt]]:
            return [(await it.receipt(report("counted", attempt=1, n=n, progress=n % 100)),) * 2 for n in range(1, 41)]

        by_key = await asyncio.gather(*(work(worker) for worker in range(workers)))
        # The same numbered reports, each gateway at its own pace: whoever comes second has a repeat.
        first, second = await asyncio.gather(count(one), count(two))
        for lane in (one.lane, two.lane):
            conflicts += lane.tasks_asked - lane.tasks_applied
        told = Counter((step.task_id, step.seq) for step in (*one.heard.transitions, *two.heard.transitions))
    assert conflicts >= 5, "the two have met"
    for pairs in by_key:
        for mine, other in pairs:
            assert (mine.task_id, mine.seq, mine.status, mine.attempt) == (
                other.task_id, other.seq, other.status, other.attempt,
            )  # fmt: skip
            assert {mine.repeat, other.repeat} == {True, False}
    assert [mine.seq for mine, _ in first] == [other.seq for other, _ in second] == list(range(1, 41))
    counts = await messages(database)
    assert len(counts) == workers * reports
    assert set(counts.values()) == {1}
    in_ledger = await sequences(database)
    assert sum(map(len, in_ledger.values())) == workers * reports + 40
    assert set(told.values()) == {1}, "each transition is told by the writer that made it, once"
    assert len(told) == workers * reports + 40


async def test_a_task_of_another_tenant_is_another_task(database: str) -> None:
    """The same task id and the same key under two tenants are two tasks with a history each."""
    async with ledger(database) as it:
        for progress in (1, 2, 3):
            await it.receipt(report("a", tenant="one", key=f"k{progress}", progress=progress))
        other = await it.receipt(report("a", tenant="two", key="k1", progress=77))
        assert (other.seq, other.repeat) == (1, False)
        mine, theirs = await it.reader.task("one", "a"), await it.reader.task("two", "a")
        assert mine is not None
        assert theirs is not None
        assert (mine.seq, mine.progress, theirs.seq, theirs.progress) == (3, 3, 1, 77)
        assert await it.reader.task("three", "a") is None
    assert await sequences(database) == {"one/a": [1, 2, 3], "two/a": [1]}


# The queue and the end


@pytest.mark.parametrize("numbers", ["by tens", "from 5,000 on", "with others between", "of an attempt before"])
async def test_a_repeat_is_found_however_far_back_it_is(database: str, numbers: str) -> None:
    """Numbers may be skipped, and others may write in between: what was accepted is never called too late."""
    first = [report(attempt=1, n=n * 10, message=str(n)) for n in range(1, 1501)]
    if numbers == "from 5,000 on":
        first = [report(attempt=1, n=5000 + n, message=str(n)) for n in range(1500)]
    sent = list(first)
    if numbers == "with others between":
        sent[700:700] = [report() for _ in range(1500)]
    if numbers == "of an attempt before":
        sent += [report(attempt=2, n=n) for n in range(1, 1501)]
    async with ledger(database) as it:
        before = await asyncio.gather(*map(it.receipt, sent))
        places = {id(one): answer.seq for one, answer in zip(sent, before, strict=True)}
        again = await asyncio.gather(*map(it.receipt, first))
        assert all(answer.repeat for answer in again)
        assert [answer.seq for answer in again] == [places[id(one)] for one in first]
        skipped = await it.rejection(report(attempt=1, n=14_991 if numbers == "by tens" else 3))
        assert skipped.code == ("fenced" if numbers == "of an attempt before" else "superseded")
        async with connected(database) as connection:
            assert await connection.fetchval("select count(*) from ledger.transition") == len(sent)


async def test_a_fault_of_the_listener_costs_nobody_the_answer(database: str) -> None:
    """What is committed is answered, and so is a repeat, whatever those who watch make of it."""
    faulty = FaultyWatcher()
    async with ledger(database, heard=faulty) as it:
        async with asyncio.timeout(WAIT_SECONDS):
            first = await asyncio.gather(*(it.receipt(report(f"a-{place}", attempt=1, n=1)) for place in range(20)))
            again = await asyncio.gather(*(it.receipt(report(f"a-{place}", attempt=1, n=1)) for place in range(20)))
        assert not any(answer.repeat for answer in first)
        assert all(answer.repeat for answer in again)
        assert faulty.told > len(again)  # a commit at least, and each repeat
