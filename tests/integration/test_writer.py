"""The writer's promises, on a real database: one answer and one effect per report, no holes, no false "written".

No HTTP. What the ledger holds is read from its tables by a connection of the test's own.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from ledger.batch import Answer
from ledger.errors import Busy, LedgerError, OutcomeUnknown, Unavailable
from ledger.machine import CancelStage, Status
from ledger.model import (
    CancelRequest,
    Create,
    Receipt,
    Rejection,
    Report,
    Transition,
    fingerprint,
    task_key,
)
from ledger.pending import BATCH_BYTES
from ledger.pool import Hold, Lane, Pools
from ledger.reader import Reader
from ledger.sql import query
from ledger.writer import QUEUE_BYTES, Writer
from tests.support.limits import generous
from tests.support.node import TENANT, Asking, Heard, connected
from tests.support.postgres import Cluster, address_of, create_database, drop_database, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually, pace


class FaultyWatcher(Heard):
    """A listener that fails at whatever it is told."""

    told = 0

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        self.told += 1
        raise RuntimeError("a watcher is at fault")

    def reached(self, key: str, seq: int) -> None:
        self.told += 1
        raise RuntimeError("a watcher is at fault")


class CountingLane(Lane):
    """A write lane that counts its appends: the tasks they asked for, those applied, and the answers that were lost."""

    appends = 0
    tasks_asked = 0
    tasks_applied = 0
    lost = 0

    def hold(self, label: str) -> Hold:
        return CountingHold(self, label)


class CountingHold(Hold):
    """What counts for its lane."""

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        lane = cast("CountingLane", self._lane)
        append = sql in (query("append"), query("advance"))
        try:
            rows = await super().fetch(sql, *args)
        except OutcomeUnknown:
            lane.lost += append
            raise
        if append:
            asked = cast("str", args[0]).count(",") + 1
            lane.appends += 1
            lane.tasks_asked += asked
            lane.tasks_applied += asked if rows[0]["applied"] is None else len(rows[0]["applied"])
        return rows


class Ledger(Asking):
    """A writer and a reader on pools of their own, as one gateway has them."""

    def __init__(self, writer: Writer, lane: CountingLane, reader: Reader, heard: Heard) -> None:
        self.writer = writer
        self.lane = lane
        self.reader = reader
        self.heard = heard
        self.closed = False

    async def close(self, timeout_seconds: float) -> None:
        self.closed = True
        await self.writer.close(timeout_seconds)


@asynccontextmanager
async def ledger(dsn: str, *, heard: Heard | None = None, **given: Any) -> AsyncIterator[Ledger]:
    """A ledger with these settings; closed in the order of a gateway's end."""
    settings = generous(**given)
    lanes = [CountingLane(name, settings, dsn, size=2, writes=name != "read") for name in ("write", "read", "control")]
    pools = Pools(*lanes)
    for lane in lanes:
        await lane.open(1)
    heard = heard or Heard()
    writer = Writer(pools.write, heard, settings)
    writer.start()
    it = Ledger(writer, lanes[0], Reader(pools.read, lease_ms=60_000), heard)
    try:
        yield it
    finally:
        if not it.closed:
            await it.close(2.0)
        await pools.close()


QUICK: dict[str, Any] = {
    "command_timeout_seconds": 0.4,
    "connect_timeout_seconds": 0.3,
    "acquire_timeout_seconds": 0.3,
    "statement_timeout_ms": 300,
    "lock_timeout_ms": 200,
    "request_deadline_seconds": 1.0,
}


def report(task_id: str = "a", *, tenant: str = TENANT, **members: Any) -> Report:
    """A report; with an `n` or a `key` it gets its digests as the gateway would make them."""
    key = members.pop("key", None)
    if key is not None:
        members["idem"] = fingerprint("key", key)
    if key is not None or members.get("n") is not None:
        members["digest"] = fingerprint(
            [(name, str(members[name])) for name in ("progress", "message") if name in members]
        )
    return Report(tenant=tenant, task_id=task_id, **members)


@asynccontextmanager
async def row_locked(dsn: str, task_id: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Hold a task's row: an append to it has to wait on the server."""
    async with connected(dsn) as connection, connection.transaction():
        held = await connection.fetchval(
            "select seq from ledger.task where key = $1 for update", task_key(TENANT, task_id)
        )
        assert held is not None
        yield connection


async def appends_waiting(dsn: str) -> list[int]:
    """The server processes that wait for a row lock with an append."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query like '%Group commit%'"
        )
    return [row["pid"] for row in rows]


async def sequences(dsn: str) -> dict[str, list[int]]:
    """Every task's transitions as the tables have them, in order; checks that the task row agrees with the last."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select t.tenant || '/' || t.task_id as name, t.seq,"
            " coalesce(array_agg(p.seq order by p.seq) filter (where p.seq is not null), '{}') as seqs"
            " from ledger.task t left join ledger.transition p using (key) group by t.key"
        )
    for row in rows:
        assert row["seqs"] == list(range(1, row["seq"] + 1)), f"{row['name']} has holes: {row['seqs']}"
    return {row["name"]: row["seqs"] for row in rows}


async def messages(dsn: str, tenant: str = TENANT) -> Counter[str]:
    """How often each message stands in the ledger. Every report of a test says another one, or none says any."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select p.message from ledger.transition p join ledger.task using (key)"
            " where tenant = $1 and p.message is not null",
            tenant,
        )
    return Counter(row["message"] for row in rows)


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


# Poison

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


@pytest.fixture(scope="module")
def shared_database(cluster: Cluster) -> Iterator[str]:
    """One database for tests that keep to a tenant of their own."""
    dsn = asyncio.run(create_database(cluster))
    yield dsn
    asyncio.run(drop_database(cluster, dsn))


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
            async with row_locked(database, "a"):
                async with row_locked(database, "other"):
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
                # One statement with the later one alone, at the place of the earlier; its answer is lost too.
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
            async with row_locked(database, "a"):
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


async def test_a_full_queue_says_busy_and_takes_reports_again_later(database: str) -> None:
    """At the bound a report is refused at once, with a time to come back; those that were taken are all committed."""
    async with ledger(database, queue_limit=50) as it:
        await it.receipt(report(progress=0))
        async with row_locked(database, "a"):
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
        async with row_locked(database, "a"):
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
        async with row_locked(database, "a"):
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


async def _at_least(count: int, found: Awaitable[Sequence[object]]) -> bool:
    return len(await found) >= count


async def _written(dsn: str, message: str) -> bool:
    return (await messages(dsn))[message] > 0


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


async def test_a_batch_is_bounded_in_bytes_too(database: str) -> None:
    """Small reports behind large ones do not wait for one statement of them all, which may take too long for ever."""
    large = b'"' + b"y" * 30_000 + b'"'
    async with ledger(database, write_pool_max=1) as it:
        await asyncio.gather(*(it.receipt(report(f"a-{place}", result=large)) for place in range(400)))
        assert it.lane.appends == -(-400 // (BATCH_BYTES // len(large) + 1))
