"""The reads of many sessions at once: few questions to the ledger, and to each session what it would have got alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.protocol.effects import Read, Want
from gateway.replay import PAGE, Replays
from ledger.errors import Unavailable
from ledger.model import Report, task_key
from ledger.pool import Lane, Pools
from ledger.reader import Reader
from tests.support.limits import generous
from tests.support.node import TENANT, Node, node

TASKS = 40
LENGTH = 30
LONG = PAGE + 40
SESSIONS = 400


class CountingReader(Reader):
    """Counts its questions, and can be kept from asking."""

    questions = 0
    replayed = 0

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane, lease_ms=60_000)
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        self.questions += 1
        self.asked.set()
        await self.gate.wait()
        rows = await super()._fetch(name, *arguments)
        self.replayed += len(rows) if name == "replay" else 0
        return rows


@pytest.fixture
async def it(database: str) -> AsyncIterator[Node]:
    """Some tasks of the same length, and a long one."""
    async with node(database) as made:
        reports = [(f"t{number}", progress) for number in range(TASKS) for progress in range(LENGTH)]
        reports += [("long", progress) for progress in range(LONG)]
        await asyncio.gather(
            *(made.receipt(Report(tenant=TENANT, task_id=name, progress=float(at))) for name, at in reports)
        )
        yield made


@pytest.fixture
async def reader(database: str, it: Node) -> AsyncIterator[CountingReader]:
    """A reader on a lane of its own."""
    pools = await Pools.open(generous(), database)
    yield CountingReader(pools.read)
    await pools.close()


def want(task_id: str, after: int | None) -> Want:
    """What a session asks for."""
    return Want((task_key(TENANT, task_id), False), after)


async def all_of(replays: Replays, wants: list[Want]) -> dict[Want, Read]:
    """As a session does: what was left out is asked for again."""
    answered: dict[Want, Read] = {}
    while left := [each for each in wants if each not in answered]:
        reads = await replays.answer(left)
        assert reads
        assert sum(len(read.events) for read in reads) <= PAGE
        answered |= {read.want: read for read in reads}
    return answered


def check(each: Want, read: Read, lengths: dict[str, int]) -> None:
    """The answer is the one that this want gets alone."""
    length = lengths.get(each.slot[0], 0)
    if not length:
        assert (read.head, read.task, list(read.events)) == (None, None, [])
    elif each.after is None:
        assert read.task is not None
        assert read.task.seq == length
    else:
        assert read.head is not None
        assert read.head.seq == length
        seqs = [event.seq for event in read.events]
        assert seqs == [*range(each.after + 1, each.after + 1 + len(seqs))]
        assert seqs or each.after >= length


async def test_a_crowd_is_answered_with_few_questions(reader: CountingReader, seed: int) -> None:
    """Hundreds of sessions with cursors and without, many of the same tasks at the same and at other places."""
    dice = random.Random(seed)
    lengths = {task_key(TENANT, f"t{number}"): LENGTH for number in range(TASKS)} | {task_key(TENANT, "long"): LONG}
    replays = Replays(reader)

    def some() -> list[Want]:
        names = dice.sample([*(f"t{number}" for number in range(TASKS)), "long", "nobody has heard of"], k=3)
        return [want(name, dice.choice([None, 0, LENGTH // 2, LENGTH - 1])) for name in names]

    asked = [some() for _ in range(SESSIONS)]
    answered = await asyncio.gather(*(all_of(replays, wants) for wants in asked))
    for wants, reads in zip(asked, answered, strict=True):
        assert set(reads) == set(wants)
        for each, read in reads.items():
            check(each, read, lengths)
    print(f"{SESSIONS} sessions, {replays.reads} reads, {reader.questions} questions")  # noqa: T201
    assert reader.questions <= 3 * replays.reads
    assert reader.questions < SESSIONS / 2


async def test_all_who_watch_one_task_share_one_read(reader: CountingReader) -> None:
    """However many they are, and each event is the same object: it was encoded once."""
    replays = Replays(reader)
    answers = await asyncio.gather(*(replays.answer([want("t1", 3)]) for _ in range(SESSIONS)))
    assert replays.reads == 1
    assert len({id(event) for (read,) in answers for event in read.events}) == LENGTH - 3


async def test_no_more_is_read_than_those_who_ask_can_take(reader: CountingReader) -> None:
    """A session that comes back to many tasks gets a page, and a page is what is read for it."""
    replays = Replays(reader)
    wants = [want(f"t{number}", 0) for number in range(TASKS)]
    answered = await all_of(replays, wants)
    for each, read in answered.items():
        check(each, read, {each.slot[0]: LENGTH})
    assert replays.reads > 1
    assert reader.replayed == sum(len(read.events) for read in answered.values()), "nothing of it is thrown away"


async def test_a_question_joins_no_read_that_has_begun(it: Node, reader: CountingReader) -> None:
    """What it brings may be older than what the session has seen the hub forward."""
    replays = Replays(reader)
    reader.gate.clear()
    early = asyncio.create_task(replays.answer([want("t1", None)]))
    await reader.asked.wait()
    await it.receipt(Report(tenant=TENANT, task_id="t1", progress=100.0))
    late = asyncio.create_task(replays.answer([want("t1", None)]))
    reader.gate.set()
    ((read,), _) = await asyncio.gather(late, early)
    assert read.task is not None
    assert read.task.progress == 100.0
    assert replays.reads == 2


async def test_who_has_gone_is_not_waited_for_and_a_failure_is_everybodys(reader: CountingReader) -> None:
    """A session that ends takes nothing from the others; an outage is told to each, and afterwards all goes on."""
    replays = Replays(reader)
    reader.gate.clear()
    sessions = [asyncio.create_task(replays.answer([want("t1", 0), want("long", 0)])) for _ in range(20)]
    await reader.asked.wait()
    sessions[0].cancel()
    reader.gate.set()
    answers = await asyncio.gather(*sessions[1:])
    assert all(len(reads) == 2 for reads in answers)
    await reader._lane.close()
    failed = await asyncio.gather(*(replays.answer([want("t2", 0)]) for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in failed} == {Unavailable}
