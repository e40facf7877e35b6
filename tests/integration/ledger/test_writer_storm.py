"""Several nodes write to the same tasks at once, with all that there is, and the ledger has what each has answered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Final

import asyncpg

from ledger.machine import TERMINAL, Status
from ledger.model import CancelRequest, Create, Rejection, Report, fingerprint, task_key
from tests.support.limits import QUICK
from tests.support.node import TENANT, Node, connected, node
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy

PATIENCE: Final = {"lease_seconds": 5, "lease_grace_seconds": 1, "cancel_grace_seconds": 1}
TASKS: Final = 60
STEPS: Final = 1_200
OWNERS: Final = 10
"""Workers that number their reports, each of a task of its own."""
ROUNDS: Final = 15
AT_ONCE: Final = 30


class Storm:
    """Who says what to which node, and what the answers were. Each report has a message of its own."""

    def __init__(self, nodes: list[Node], dice: random.Random) -> None:
        self.nodes = nodes
        self.dice = dice
        self.names = count(1)
        self.first: dict[str, tuple[str, int, Status]] = {}
        """By message: where the answer that was no repeat has put it."""
        self.repeats: list[tuple[str, tuple[str, int, Status]]] = []
        self.refused: Counter[str] = Counter()
        self.turns = asyncio.Semaphore(AT_ONCE)

    async def say(self, request: Report | Create | CancelRequest, at: Node) -> None:
        answer = await at.writer.submit(request)
        if isinstance(answer, Rejection):
            self.refused[answer.code] += 1
        elif isinstance(request, Report) and isinstance(request.message, str):
            place = answer.task_id, answer.seq, answer.status
            if not answer.repeat:
                # By two ways it may be new on both: where the first answer is lost, nobody knows whose report it was.
                assert self.first.setdefault(request.message, place) == place, "one effect"
            elif request.digest is not None:  # else it says what is so already
                self.repeats.append((request.message, place))

    def report(self, task_id: str, **members: Any) -> Report:
        dice, name = self.dice, f"said as {next(self.names)}"
        if dice.random() < 0.3:
            members["data"] = b"[%d]" % dice.randrange(100)
        if dice.random() < 0.5:
            members["progress"] = dice.random()
        if dice.random() < 0.1:
            members["stage"] = dice.choice(["one", "two", None])
        if "n" in members or "idem" in members:
            members["digest"] = fingerprint(name)
        return Report(tenant=TENANT, task_id=task_id, message=name, **members)

    async def anything(self) -> None:
        """One of all that can happen to a task."""
        async with self.turns:
            dice = self.dice
            task_id, at = f"task-{dice.randrange(TASKS)}", dice.choice(self.nodes)
            kind = dice.random()
            if kind < 0.55:  # several at once
                await asyncio.gather(*(self.say(self.report(task_id), at) for _ in range(dice.randrange(1, 6))))
            elif kind < 0.7:  # one by two ways
                said = self.report(task_id, idem=fingerprint("key", next(self.names)))
                await asyncio.gather(*(self.say(said, dice.choice(self.nodes)) for _ in range(2)))
            elif kind < 0.8:
                at.beats.add([(task_key(TENANT, task_id), None, None)])
            else:
                await self.say(self.rarely(task_id), at)

    def rarely(self, task_id: str) -> Report | Create | CancelRequest:
        kind = self.dice.random()
        if kind < 0.2:
            return CancelRequest(tenant=TENANT, task_id=task_id)
        if kind < 0.45:
            return self.report(task_id, cancel=self.dice.choice(["delivered", "refused", "refused"]))
        if kind < 0.6:
            digest = fingerprint("create", task_id)
            return Create(tenant=TENANT, task_id=task_id, idem=digest, digest=digest, kind="k")
        if kind < 0.75:
            return self.report(task_id, attempt="new", status=Status.RUNNING)
        if kind < 0.9:
            return self.report(task_id, lease_ms=self.dice.choice([1_000, 100_000]))
        if kind < 0.95:
            return self.report(task_id, deadline_ms=self.dice.choice([1, 100_000]))
        return self.report(task_id, status=Status.COMPLETED, result=b"[]")

    async def own(self, task_id: str) -> None:
        """A worker that sends many at once, each time to another node, and often all of it again."""
        said = 0
        for _ in range(ROUNDS):
            some = [self.report(task_id, attempt=1, n=said + i) for i in range(1, self.dice.randrange(2, 8))]
            said += len(some)
            at = self.dice.choice(self.nodes)
            await asyncio.gather(*(self.say(each, at) for each in some))
            if self.dice.random() < 0.5:
                await asyncio.gather(*(self.say(each, self.dice.choice(self.nodes)) for each in some))


async def test_a_storm_leaves_no_hole_and_no_answer_that_is_not_true(database: str, seed: int) -> None:
    """Progress, changes of status, cancels, creates, beats and reapers; and one node's link breaks again and again."""
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(address_of(database)))
        nodes = [
            await stack.enter_async_context(node(dsn, batch_limit=limit, **PATIENCE, **limits))
            for dsn, limit, limits in (
                (database, 500, {}),
                (database, 20, {}),
                (through(database, proxy.port), 3, QUICK | {"queue_wait_seconds": 30.0}),
            )
        ]
        for each in nodes:
            each.reaper.start()
        storm = Storm(nodes, dice)
        working = asyncio.gather(
            *(storm.anything() for _ in range(STEPS)), *(storm.own(f"own-{worker}") for worker in range(OWNERS))
        )
        breaks = 0
        async with connected(database) as hurrying:
            while not working.done():
                await hurrying.execute(HURRY)
                breaks += 1
                proxy.set(Link.RESET)
                proxy.set(Link.PASS)
                await asyncio.wait([working], timeout=0.2)
        await working
        assert len(storm.first) > STEPS / 4
        assert storm.repeats
        assert breaks > 1
    told = Counter((each.key, each.seq) for it in nodes for each in it.heard.transitions)
    async with connected(database) as connection:
        assert not await connection.fetchval(DEADLOCKS), "all append in one order"
        heads = await connection.fetch("select * from ledger.head")
        anchors = {row["key"]: row["seq"] for row in await connection.fetch("select key, seq from ledger.task")}
        steps: dict[Any, list[asyncpg.Record]] = defaultdict(list)
        for step in await connection.fetch("select * from ledger.transition order by key, seq"):
            steps[step["key"]].append(step)
    places: dict[str, tuple[str, int, Status]] = {}
    for head in heads:
        own = steps.pop(head["key"])
        is_the_sum_of(head, own)
        assert anchors[head["key"]] == head["seq"] or head["status"] == "running"
        for step in own:
            # What is no report says the message of the one before.
            places.setdefault(step["message"], (head["task_id"], step["seq"], Status(step["status"])))
            assert told[step["key"].hex, step["seq"]] <= 1
    places.pop(None, None)  # type: ignore[call-overload]
    assert not steps, "no transition is without its task"
    assert places == storm.first
    assert all(places[name] == place for name, place in storm.repeats)


DEADLOCKS: Final = "select deadlocks from pg_stat_database where datname = current_database()"
HURRY: Final = """
update ledger.task set due_at = now()
where key in (select key from ledger.task where due_at is not null for no key update skip locked)
"""


def is_the_sum_of(head: asyncpg.Record, steps: list[asyncpg.Record]) -> None:
    """Whether a task stands as its transitions say, each after the other."""
    assert [step["seq"] for step in steps] == list(range(1, head["seq"] + 1))
    last = steps[-1]
    for name in ("status", "attempt", "progress", "stage", "message"):
        assert head[name] == last[name], (name, head, last)
    assert (head["n"], head["updated_at"]) == (abs(last["n"]), last["at"])
    for name in ("data", "result", "error"):
        brought = [step["seq"] for step in steps if step[name] is not None]
        assert head[f"{name}_seq"] == max(brought, default=0), (name, head)
    asked = [step["seq"] for step in steps if step["cancel"] == "recorded"]
    assert (head["cancel_seq"] or 0) == max(asked, default=0)
    assert not [step for step in steps[:-1] if step["status"] in TERMINAL], "nothing follows an end"
    numbers = [(step["attempt"], step["n"]) for step in steps if step["n"] > 0]
    assert numbers == sorted(set(numbers)), "numbers rise"
    said = [step for before, step in zip([None, *steps], steps, strict=False) if _speaks(before, step)]
    if said:
        assert head["beat_at"] >= said[-1]["at"], "a report is a sign of life"


def _speaks(before: asyncpg.Record | None, step: asyncpg.Record) -> bool:
    return step["message"] is not None and (before is None or before["message"] != step["message"])
