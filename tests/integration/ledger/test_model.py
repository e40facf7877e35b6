"""The life of tasks, as hypothesis invents it: the document = the ledger = what those saw who watched.

Two writers over one database, as two gateways have them, a hub with real connections, and the reaper. Requests of all
shapes come in bursts, again, late, and through both writers at once; workers beat or fall silent, and time passes in
the tables. Each answer is what the model of docs/protocol.md says, and at the end so is each row and each frame.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar

import asyncpg
import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from ledger.batch import Answer
from ledger.model import CancelRequest, Create, Lapse, Receipt, Report, Request, task_key
from ledger.sql import query
from tests.property.document_model import LAPSES, Accepted, PaperTask, Refused, in_paper_words
from tests.property.requests_of_all_shapes import TENANT, aimed, creates, lapses, named, progress, requests
from tests.support.limits import generous
from tests.support.postgres import Cluster
from tests.support.waiting import eventually
from tests.support.world import Watching, World, world

SETTINGS: Final = settings(
    max_examples=75,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# Time passes by whole units, and nothing ends near one: so the time that the test itself takes makes no difference.
UNIT_MS: Final = 1_000_000
LEDGER: Final = generous(lease_seconds=1_700, lease_grace_seconds=3_000, cancel_grace_seconds=2_300)
LEASES: Final = {5_000: 700_000, 90_000: 2_700_000}
DEADLINES: Final = {1_000: 1_500_000, 600_000: 5_500_000}

ROUNDS: Final = 4
"""At most: most seeds have everything in the first one, some only nearly."""
DID: Final = Counter[str]()
TASKS: Final = ("task-1", "task-2", "task-3", "task-4")
T = TypeVar("T")


@dataclass
class Life:
    """A task on paper, with its times in milliseconds."""

    paper: PaperTask = field(default_factory=PaperTask)
    heard_at: int = 0
    deadline_at: int | None = None
    asked_at: int = 0
    was_running: bool = False

    def happen(self, request: Request, mark: str, now: int) -> Accepted | Refused:
        """One request, now."""
        before, status = self.paper.seq, self.paper.status
        answer = self.paper.happen(request, mark)
        if self.paper.seq == before:
            return answer
        if isinstance(request, Report):
            self.heard_at = now
        if isinstance(request, Report | Create) and request.deadline_ms is not None:
            self.deadline_at = now + request.deadline_ms
        if isinstance(request, CancelRequest):
            self.asked_at, self.was_running = now, status == "running"
        return answer

    def beat(self, attempt: int | None, now: int) -> None:
        """A worker says that it is there."""
        if self.paper.status in {"running", "cancelling"} and attempt in {None, self.paper.attempt}:
            self.heard_at = now

    def over(self, now: int) -> Literal["lease", "deadline", "cancel"] | None:
        """Why the ledger has to end the task, if it has to: what came to its end first."""
        status, patience = self.paper.status, LEDGER.patience
        ends: list[tuple[int, Literal["lease", "deadline", "cancel"]]] = []
        if self.deadline_at is not None and status in LAPSES["deadline"][0]:
            ends.append((self.deadline_at, "deadline"))
        if status == "cancelling":
            ends.append((self.asked_at + patience.cancel_ms, "cancel"))
        if status == "running" or (status == "cancelling" and self.was_running):
            lease_ms = patience.lease_ms if self.paper.lease_ms is None else self.paper.lease_ms
            ends.append((self.heard_at + lease_ms + patience.grace_ms, "lease"))
        at, why = min(ends, default=(now, None))
        return why if at < now else None


tasks = st.sampled_from(TASKS)
some_requests = st.one_of(progress(tasks), progress(tasks), progress(tasks), requests(tasks))
through = st.sampled_from([0, 0, 1])


class Lives(RuleBasedStateMachine):
    """Four tasks from their beginning on."""

    world: World
    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)
        self.now = 0
        self.lives = {self.name(task): Life() for task in TASKS}
        self.named: list[Request] = []
        self.marks = map("mark {}".format, itertools.count())
        self.steady, self.restless = (Watching(self.world.services, list(self.lives)) for _ in range(2))
        self.run(self.steady.come())
        self.run(self.restless.come())

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.world.run(what)

    def name(self, task: str) -> str:
        return f"life-{self.number}.{task}"

    def here(self, request: Request, task: str | None = None) -> Request:
        """The request as it is asked in this life, of the task as it stands."""
        name = self.name(task or request.task_id)
        made = replace(aimed(request, self.lives[name].paper.seq), task_id=name)
        if isinstance(made, Report | Create):
            lease_ms, deadline_ms = LEASES.get(made.lease_ms or 0), DEADLINES.get(made.deadline_ms or 0)
            made = replace(made, lease_ms=lease_ms, deadline_ms=deadline_ms)
        return made

    def happen(self, request: Request) -> Accepted | Refused:
        """On paper."""
        answer = self.lives[request.task_id].happen(request, request.digest or next(self.marks), self.now)
        DID[type(request).__name__.lower()] += isinstance(answer, Accepted) and not answer.repeat
        if isinstance(answer, Refused):
            DID[answer.code] += 1
        else:
            DID["repeats"] += answer.repeat
        return answer

    @rule(asked=st.lists(some_requests, min_size=1, max_size=12), writer=through)
    def ask(self, asked: list[Request], writer: int) -> None:
        """A burst through one writer: each answer is that of the document, one after the other."""
        here = [self.here(request) for request in asked]
        self.named += [request for request in here if request.digest is not None]
        answers = self.run(self.world.submit([(writer, request) for request in here]))
        for request, answer in zip(here, answers, strict=True):
            assert in_paper_words(answer) == self.happen(request), request

    @rule(task=tasks, new=st.booleans(), writers=st.lists(through, min_size=1, max_size=8))
    def work(self, task: str, new: bool, writers: list[int]) -> None:
        """A worker takes the task up, or goes on with it, and waits for each answer; its gateway may change."""
        paper = self.lives[self.name(task)].paper
        attempt = paper.attempt + new
        for n, writer in enumerate(writers, 1 if new else paper.last_n + 1):
            report = named(
                Report(tenant=TENANT, task_id=self.name(task), attempt=attempt, n=n, progress=float(n % 100))
            )
            (answer,) = self.run(self.world.submit([(writer, report)]))
            assert in_paper_words(answer) == self.happen(report), report
            self.named.append(report)
        DID["numbered"] += len(writers)

    @precondition(lambda self: self.named)
    @rule(which=st.integers(0, 1_000), writer=through)
    def repeat(self, which: int, writer: int) -> None:
        """A worker or a client has not heard the answer, or wakes up long after."""
        request = self.named[which % len(self.named)]
        (answer,) = self.run(self.world.submit([(writer, request)]))
        assert in_paper_words(answer) == self.happen(request), request
        DID["asked again"] += 1

    @rule(task=tasks, lapse=lapses(), ago=st.integers(1, 3))
    def come_too_late(self, task: str, lapse: Lapse, ago: int) -> None:
        """What the ledger wanted to end has moved on since it looked."""
        head = self.lives[self.name(task)].paper.seq
        if head > ago:
            late = replace(lapse, task_id=self.name(task), seq=head - ago)
            (answer,) = self.run(self.world.submit([(ago % 2, late)]))
            assert in_paper_words(answer) == self.happen(late) == Refused(code="superseded")
            DID["late lapses"] += 1

    @rule(
        task=tasks,
        asked=st.lists(st.tuples(through, requests() | progress()), min_size=1, max_size=5),
        units=st.sampled_from([0, 0, 0, 1, 3]),
    )
    def race(self, task: str, asked: list[tuple[int, Request]], units: int) -> None:
        """Through both writers at once, perhaps while the reaper looks: there is an order in which all was answered."""
        life = self.lives[self.name(task)]
        here = [(writer, self.here(request, task)) for writer, request in asked]
        if units:
            self.now += units * UNIT_MS
            self.run(self.world.pass_time(units * UNIT_MS))
        answers = self.run(self._at_once(here, looking=units > 0))
        told = [in_paper_words(answer) for answer in answers]
        placed: dict[int, tuple[Request, Accepted | Refused]] = {
            answer.seq: (request, answer)
            for (_, request), answer in zip(here, told, strict=True)
            if isinstance(answer, Accepted) and not answer.repeat
        }
        moments = [copy.deepcopy(life)]
        rows = self.run(self.world.fetch(TRANSITIONS, task_key(TENANT, self.name(task)), life.paper.seq))
        assert set(placed) <= {row["seq"] for row in rows}
        for row in rows:
            if row["seq"] in placed:
                request, answer = placed[row["seq"]]
                assert self.happen(request) == answer, request
            else:
                why = life.over(self.now)
                assert why is not None
                lapse = Lapse(tenant=TENANT, task_id=self.name(task), seq=life.paper.seq, why=why)
                assert self.happen(lapse) == Accepted(
                    seq=row["seq"], status=row["status"], attempt=row["attempt"], repeat=False, cancel=None
                )
            moments.append(copy.deepcopy(life))
        for (_, request), answer in zip(here, told, strict=True):
            if isinstance(answer, Refused) or answer.repeat:
                possible = [copy.deepcopy(moment).happen(request, "", self.now) for moment in moments]
                assert answer in possible, request
        self.named += [request for _, request in here if request.digest is not None]
        DID["races"] += len({writer for writer, _ in here}) == 2
        DID["races with the reaper"] += units > 0
        if units:
            self.run(self.world.look_at_all())
            self.let_the_reaper_look()

    async def _at_once(self, asked: Sequence[tuple[int, Request]], *, looking: bool) -> list[Answer]:
        if not looking:
            return await self.world.submit(asked)
        answers, _ = await asyncio.gather(self.world.submit(asked), self.world.look())
        return answers

    @rule(units=st.sampled_from([1, 1, 2, 3]))
    def let_time_pass(self, units: int) -> None:
        """And the reaper look: it ends what is over, and nothing else."""
        self.now += units * UNIT_MS
        self.run(self.world.pass_time(units * UNIT_MS))
        self.let_the_reaper_look()

    def let_the_reaper_look(self) -> None:
        """In the ledger and on paper; for what it has ended see the end."""
        self.run(self.world.look())
        for name, life in self.lives.items():
            why = life.over(self.now)
            if why is not None:
                answer = self.happen(Lapse(tenant=TENANT, task_id=name, seq=life.paper.seq, why=why))
                assert isinstance(answer, Accepted)
                DID[f"{why} over"] += 1

    @rule(task=tasks, pauses=st.lists(st.integers(1, 3), min_size=1, max_size=4), writer=through)
    def speak_now_and_then(self, task: str, pauses: list[int], writer: int) -> None:
        """A worker reports progress, and is silent for a while."""
        for units in pauses:
            report = Report(tenant=TENANT, task_id=self.name(task), progress=50.0)
            (answer,) = self.run(self.world.submit([(writer, report)]))
            assert in_paper_words(answer) == self.happen(report)
            DID["pauses"] += isinstance(answer, Receipt)
            self.let_time_pass(units)

    @precondition(lambda self: any(life.paper.seq == 0 for life in self.lives.values()))
    @rule(units=st.sampled_from([0, 0, 1, 3]), reported=st.booleans(), writer=through, create=creates())
    def cancel_before_it_is(self, units: int, reported: bool, writer: int, create: Create) -> None:
        """A client changes its mind early; perhaps a worker begins all the same; a create comes soon, or very late."""
        name = next(name for name, life in self.lives.items() if life.paper.seq == 0)
        asked: list[Request] = [CancelRequest(tenant=TENANT, task_id=name, reason="early")]
        asked += [Report(tenant=TENANT, task_id=name)] * reported
        asked += [replace(create, task_id=name, lease_ms=None, deadline_ms=None)]
        for request in asked:
            if isinstance(request, Create) and units:
                self.let_time_pass(units)
            (answer,) = self.run(self.world.submit([(writer, request)]))
            assert in_paper_words(answer) == self.happen(request)
        DID[f"early cancel, {self.lives[name].paper.cancels[0].stage}"] += 1

    @rule(task=tasks, attempt=st.sampled_from([None, 0, 1, 2, 3]))
    def beat(self, task: str, attempt: int | None) -> None:
        """A worker is there, of this attempt or of another."""
        name = self.name(task)
        self.run(self.world.fetch(query("beat"), [task_key(TENANT, name)], [attempt], [None]))
        self.lives[name].beat(attempt, self.now)

    @rule()
    def break_off_or_come_back(self) -> None:
        """One who watches is on the way."""
        self.run(self.restless.go() if self.restless.here else self.restless.come())
        DID["breaks"] += not self.restless.here

    def teardown(self) -> None:
        """The document, the ledger, and who watched: all the same."""
        try:
            self.run(self._compare())
        finally:
            self.run(self.steady.go())
            self.run(self.restless.go())

    async def _compare(self) -> None:
        if not self.restless.here:
            await self.restless.come()
        for name, life in self.lives.items():
            rows = await self.world.fetch(TRANSITIONS, task_key(TENANT, name), 0)
            assert len(rows) == life.paper.seq
            for row, happened in zip(rows, life.paper.log, strict=True):
                compare(row, happened)
            (task, *_) = [*await self.world.fetch(TASK, task_key(TENANT, name)), None]
            assert (task is None) is (life.paper.seq == 0)
            if task is not None:
                compare_task(task, life)
            for watching in (self.steady, self.restless):
                await eventually(lambda: self._has_seen(watching, name))  # noqa: B023 - awaited here
                for frame, happened in zip(watching.seen[name], life.paper.log, strict=True):
                    compare(frame, happened)
                assert watching.told == []
            DID["transitions seen"] += life.paper.seq

    def _has_seen(self, watching: Watching, name: str) -> bool:
        seen = [frame["seq"] for frame in watching.seen[name]]
        assert seen == [*range(1, len(seen) + 1)], f"{name}: {seen}"
        return len(seen) >= self.lives[name].paper.seq


TRANSITIONS: Final = "select * from ledger.transition where key = $1 and seq > $2 order by seq"
TASK: Final = "select * from ledger.head where key = $1"


def compare(shown: Any, happened: Any) -> None:
    """A row of the ledger, or a frame, with what has happened on paper."""
    is_frame = isinstance(shown, dict)
    for member in ("seq", "status", "attempt", "progress", "stage", "message"):
        assert shown[member] == getattr(happened, member), member
    cancel = shown.get("cancel")
    if is_frame:
        cancel = cancel and (cancel["stage"], cancel["reason"])
    else:
        cancel = cancel and (cancel, shown["reason"])
    assert cancel == (happened.cancel and (happened.cancel, happened.reason))
    for member in ("data", "result", "error"):
        said, wanted = shown.get(member), getattr(happened, member)
        if member == "error" and happened.error_code is not None:
            assert (said if is_frame else json.loads(said))["code"] == happened.error_code
        elif is_frame:
            assert (member in shown) is (wanted is not None)
            assert wanted is None or said == json.loads(wanted)
        else:
            assert said == (wanted and wanted.decode())


def compare_task(row: asyncpg.Record, life: Life) -> None:
    """The newest state, with all that is known of the task."""
    paper = life.paper
    for member in ("status", "seq", "attempt", "kind", "owner", "created", "progress", "stage", "message", "lease_ms"):
        assert row[member] == getattr(paper, member), member
    assert row["n"] == paper.last_n
    assert {member: row[f"{member}_seq"] for member in paper.payload_at} == paper.payload_at
    last = paper.cancels[-1] if paper.cancels else None
    asked = (row["cancel_stage"], row["cancel_seq"], row["cancel_reason"])
    assert asked == ((None, None, None) if last is None else (last.stage, last.seq, last.reason))
    assert (row["deadline_at"] is None) is (life.deadline_at is None)
    assert row["due_at"] is None or not paper.ended


def test_the_document_the_ledger_and_who_watches_agree(cluster: Cluster, seed: int) -> None:
    """Reports, repeats, zombies, cancels, creates behind them, silence, deadlines: whatever comes, in any order."""
    wanted = {"report": 200, "create": 30, "cancelrequest": 30, "lapse": 30, "repeats": 20, "transitions seen": 400}
    wanted |= {"lease over": 10, "deadline over": 2, "cancel over": 10, "late lapses": 1, "breaks": 20, "pauses": 5}
    wanted |= {"numbered": 50, "fenced": 1, "superseded": 10, "task_ended": 20, "asked again": 10}
    wanted |= {"races": 5, "races with the reaper": 5}
    wanted |= {"early cancel, honoured": 1, "early cancel, forced": 1, "early cancel, recorded": 1}
    with world(cluster, LEDGER, tenant=TENANT) as it:
        for round_ in range(ROUNDS):

            @hypothesis.seed(seed + round_)
            class Here(Lives):
                world = it

            run_state_machine_as_test(Here, settings=SETTINGS)
            print(dict(sorted(DID.items())))  # noqa: T201 - what was done, shown with a failure
            if not (rare := {what: DID[what] for what, times in wanted.items() if DID[what] < times}):
                break
    assert not rare
