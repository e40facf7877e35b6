"""Group commit on paper: a batch is its requests one by one, and writers that lose answers agree with the document.

The writers here are `ledger.shard` without its event loop: fold, read what is stale, fold, write what progresses,
settle it, write the rest, settle it. Between any two steps another writer may work and time may pass; a writer may be
told to forget all it knows; any statement may lose its answer, having taken effect or not, or take effect later; and a
caller may go away, so that what is sent again is another batch.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from random import Random
from typing import Final, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.batch import Answer, Entry, Fold, Growth, fold
from ledger.machine import TERMINAL
from ledger.model import Lapse, Rejection, Report, Request, State, task_key
from ledger.receipts import receipt
from tests.property.document_model import Accepted, PaperTask, Refused, in_paper_words, name_of
from tests.property.paper_ledger import PaperLedger, Row, Statement, statements
from tests.property.requests_of_all_shapes import TENANT, aimed, progress, requests

TASKS: Final = ("task-1", "task-2", "task-3")
Fate = Literal["answered", "lost but done", "lost and not done", "lost and done later"]
LOSSES: Final[tuple[Fate, ...]] = ("lost but done", "lost and not done", "lost and done later")

SETTINGS: Final = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Submission(Entry, eq=False, kw_only=True):
    """A request on its way, and what became of it: `seen` is the task's sequence when it was submitted and answered."""

    first_seen: int = 0
    last_seen: int = 0
    answer: Answer | None = None
    gone: bool = False
    """Its caller waits no longer."""


def submission(request: Request, digest: str, first_seen: int = 0) -> Submission:
    """A request on its way."""
    return Submission(task_key(TENANT, request.task_id), request, digest, first_seen=first_seen)


Step = Generator[Literal["read", "write"], Fate, None]


class PaperWriter:
    """`ledger.shard` without waiting: `work` stops where a statement is sent, and is told what becomes of it."""

    def __init__(self, ledger: PaperLedger, batch_limit: int) -> None:
        self.ledger = ledger
        self.batch_limit = batch_limit
        self.queue: deque[Submission] = deque()
        """May lose entries whose caller has gone."""
        self.memory: dict[str, State] = {}
        self.late: list[Statement] = []
        self.steps: Counter[str] = Counter()

    def work(self) -> Step:
        """One batch: what could not be settled is at the head of the queue again."""
        batch = [self.queue.popleft() for _ in range(min(self.batch_limit, len(self.queue)))]
        decided = fold(batch, self.memory, {})
        if decided.stale:
            yield "read"
            stale = [entry for entry in batch if entry.key in decided.stale]
            found = dict(zip(stale, self.ledger.heads(stale), strict=True))
            decided = fold(batch, self.memory, found)
            self.steps["forgot while reading"] += bool(decided.stale)
        for task, answers in decided.answers.items():
            if task not in decided.growth:
                self._answer_all(answers)
        for statement, growth in statements(decided.growth):
            fate = yield "write"
            self.steps[f"{statement.name} {fate}"] += 1
            applied: set[str] = set()
            if fate == "lost and done later":
                self.late.append(statement)
            elif fate != "lost and not done":
                applied = self.ledger.write(statement)
            if fate != "answered":
                self._remember_places(growth)
                break
            self.steps[f"{statement.name} moved on"] += len(growth) - len(applied)
            self._settle(decided, growth, applied)
        self.queue.extendleft(entry for entry in reversed(batch) if entry.answer is None and not entry.gone)

    def _remember_places(self, growth: Mapping[str, Growth[Submission]]) -> None:
        for grown in growth.values():
            for entry, change in grown.changes:
                entry.sent_seq = min(entry.sent_seq or change.state.seq, change.state.seq)
        self.memory.clear()

    def _settle(self, decided: Fold[Submission], growth: Mapping[str, Growth[Submission]], applied: set[str]) -> None:
        for task, grown in growth.items():
            if task not in applied:
                self.memory.pop(task, None)
                self.steps["guessed wrong"] += grown.expected == 0
                for entry, _ in grown.changes:
                    entry.must_read = True
                continue
            self.memory[task] = grown.state
            if grown.state.status in TERMINAL:
                del self.memory[task]
            for entry, change in grown.changes:
                self._answer(entry, receipt(change.state))
                self.steps["lapsed"] += isinstance(entry.request, Lapse)
            self._answer_all(decided.answers.get(task, ()))

    def _answer_all(self, answers: Sequence[tuple[Submission, Answer]]) -> None:
        for entry, answer in answers:
            self._answer(entry, answer)

    def _answer(self, entry: Submission, answer: Answer) -> None:
        assert entry.answer is None
        entry.answer = answer
        entry.last_seen = len(self.ledger.transitions.get(entry.key, ()))


def one_request_per_name(asked: Sequence[Request]) -> list[Request]:
    """A name that comes again with the same content is the same request."""
    first: dict[object, Request] = {}
    return [first.setdefault((one.task_id, name_of(one) or one, one.digest), one) for one in asked]


any_request = requests(st.sampled_from(TASKS))
few = st.lists(any_request, min_size=1, max_size=20).map(one_request_per_name)
many = st.lists(any_request, min_size=10, max_size=30).map(one_request_per_name)
some_progress = progress(st.sampled_from(TASKS))
lively = st.lists(st.one_of(*[some_progress] * 5, any_request), min_size=15, max_size=30).map(
    lambda asked: one_request_per_name([*(Report(tenant=TENANT, task_id=task) for task in TASKS), *asked])
)


@SETTINGS
@given(few | many | lively, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_batch_is_its_requests_one_by_one(asked: list[Request], sizes: list[int]) -> None:
    """However the requests are cut into batches: the same answers, the same transitions, the same tasks."""
    asked = [aimed(request, place // 2) for place, request in enumerate(asked, 1)]
    digests = [request.digest or f"{place:032x}" for place, request in enumerate(asked)]
    together, alone = PaperWriter(PaperLedger(), 1), PaperWriter(PaperLedger(), 1)
    answers: list[list[Answer | None]] = []
    for writer in (together, alone):
        entries = [submission(request, digest) for request, digest in zip(asked, digests, strict=True)]
        writer.queue.extend(entries)
        place = 0
        while writer.queue:
            if writer is together:
                writer.batch_limit = sizes[place % len(sizes)]
                place += 1
            else:
                writer.memory.clear()
            batch = writer.work()
            try:
                next(batch)
                while True:
                    batch.send("answered")
            except StopIteration:
                pass
        answers.append([entry.answer for entry in entries])
    assert answers[0] == answers[1]
    assert None not in answers[0]
    assert together.ledger.transitions == alone.ledger.transitions
    assert without_due(together.ledger) == without_due(alone.ledger)


def without_due(ledger: PaperLedger) -> dict[str, Row]:
    """The tasks but for when the reaper looks: what was undone within a batch makes it look early, never late."""
    return {key: {**(ledger.head(key) or {}), "due_at": None, "anchor": None} for key in ledger.tasks}


class World:
    """Several writers over one ledger, and the callers."""

    def __init__(self, random: Random, asked: list[Request]) -> None:
        self.random = random
        self.ledger = PaperLedger()
        self.writers = [PaperWriter(self.ledger, random.randint(1, 6)) for _ in range(3)]
        self.at_work: dict[int, Step] = {}
        self.waiting_at: dict[int, str] = {}
        self.to_come = deque(asked)
        self.submissions: list[Submission] = []

    def run(self, faults: bool) -> None:
        """Until everything is settled; statements that are late take effect at any time, or never."""
        late = [writer.late for writer in self.writers]
        while self.to_come or self.at_work or any(writer.queue for writer in self.writers):
            chance = self.random.random()
            if self.to_come and chance < 0.4:
                self.submit(self.to_come.popleft())
            elif self.submissions and chance < 0.5 and self.to_come:
                again = self.random.choice(self.submissions).request
                if again.digest is not None:
                    self.submit(again)  # the caller has lost the reply, and asks another node
            elif any(late) and chance < 0.6:
                some = self.random.choice([one for one in late if one])
                self.ledger.write(some.pop(self.random.randrange(len(some))))
            elif faults and self.submissions and chance < 0.63:
                self.random.choice(self.submissions).gone = True
            elif faults and 0.63 <= chance < 0.66:
                self.random.choice(self.writers).memory.clear()  # the ledger's history is another one now
            elif 0.66 <= chance < 0.7:
                self.ledger.now += self.random.randrange(60_000)
            else:
                self.advance(self.random.randrange(len(self.writers)), faults)
        for some in late:
            for statement in some:
                if self.random.random() < 0.5:
                    self.ledger.write(statement)

    def submit(self, request: Request) -> None:
        """To any writer. What the ledger asks of itself rests on how the task stands now."""
        seen = len(self.ledger.transitions.get(task_key(TENANT, request.task_id), ()))
        request = aimed(request, seen)
        entry = submission(request, request.digest or f"{len(self.submissions):032x}", seen)
        self.submissions.append(entry)
        self.random.choice(self.writers).queue.append(entry)

    def advance(self, place: int, faults: bool) -> None:
        """Let one writer go on to its next statement."""
        fate: Fate = "answered"
        try:
            if place not in self.at_work:
                if not self.writers[place].queue:
                    return
                self.at_work[place] = self.writers[place].work()
                self.waiting_at[place] = next(self.at_work[place])
                return
            if faults and self.waiting_at[place] == "write" and self.random.random() < 0.4:
                fate = self.random.choice(LOSSES)
            self.waiting_at[place] = self.at_work[place].send(fate)
        except StopIteration:
            self.at_work.pop(place, None)


class Truth:
    """What the document says of the transitions that were committed, at every moment of a task."""

    def __init__(self, log: Sequence[dict[str, object]], submissions: Sequence[Submission]) -> None:
        by_mark = {(entry.digest, name_of(entry.request)): entry.request for entry in submissions}
        self.log: list[tuple[Request, str]] = []
        for row in log:
            digest = row["digest"]
            assert isinstance(digest, str)
            for name in (row["idem"], (row["attempt"], row["n"]), None):
                if (digest, name) in by_mark:
                    self.log.append((by_mark[digest, name], digest))
                    break
        assert len(self.log) == len(log)
        self.moments = [PaperTask()]
        for place, (request, digest) in enumerate(self.log, 1):
            now = copy.deepcopy(self.moments[-1])
            answer = now.happen(request, digest)
            assert isinstance(answer, Accepted)
            assert (answer.seq, answer.repeat) == (place, False)
            self.moments.append(now)

    def told(self, entry: Submission, moment: int) -> Accepted | Refused:
        """What the asker should be told if asked at this moment."""
        return copy.deepcopy(self.moments[moment]).happen(entry.request, entry.digest)

    def confirms(self, entry: Submission, answer: Answer) -> bool:
        """Whether the answer was the right one at some moment while the asker waited."""
        while_waiting = range(entry.first_seen, entry.last_seen + 1)
        if isinstance(answer, Rejection):
            return any(self.told(entry, moment) == Refused(code=answer.code) for moment in while_waiting)
        said = in_paper_words(answer)
        assert isinstance(said, Accepted)
        if answer.repeat:
            return any(self.told(entry, moment) == said for moment in while_waiting)
        if self.log[answer.seq - 1] != (entry.request, entry.digest):
            return False
        if answer.seq not in while_waiting and not (entry.sent_seq and name_of(entry.request)):
            return False  # of a named one whose answer was lost nobody can tell whose statement has put it there
        at_once = self.told(entry, answer.seq - 1)
        assert isinstance(at_once, Accepted)
        if name_of(entry.request) is None or at_once == said:
            at_once.cancel = said.cancel
            return at_once == said
        # Its own answer was lost, and was found later: the place of then, the cancel request of now.
        later = [self.told(entry, moment) for moment in range(answer.seq, entry.last_seen + 1)]
        return said in [
            Accepted(seq=one.seq, status=one.status, attempt=one.attempt, repeat=False, cancel=one.cancel)
            for one in later
            if isinstance(one, Accepted)
        ]


def check(world: World) -> int:
    """Sequences 1..n, one transition per key and per own request, true answers; returns how many were looked at."""
    marks = Counter(
        (row["key"], row["digest"], row["idem"], row["n"] and (row["attempt"], row["n"]))
        for log in world.ledger.transitions.values()
        for row in log
    )
    assert not [mark for mark, times in marks.items() if times > 1]
    answered = 0
    for task in TASKS:
        of_task = [entry for entry in world.submissions if entry.request.task_id == task]
        log = world.ledger.transitions.get(task_key(TENANT, task), [])
        assert [row["seq"] for row in log] == [*range(1, len(log) + 1)]
        truth = Truth(log, of_task)
        for entry in of_task:
            if entry.answer is None:
                assert entry.gone
                continue
            assert truth.confirms(entry, entry.answer), (entry.request, entry.answer)
            answered += 1
    return answered


def test_several_writers_with_lost_answers_leave_one_effect_each() -> None:
    """Whatever was lost, late, doubled or overtaken: one effect each, and every answer is what the document says."""
    did: Counter[str] = Counter()

    @settings(SETTINGS, max_examples=300)
    @given(few | many | lively, st.integers(0, 2**32), st.booleans())
    def worlds(asked: list[Request], world_seed: int, faults: bool) -> None:
        world = World(Random(f"{world_seed} {asked}"), asked)  # else most worlds would have one of a few seeds
        world.run(faults)
        did["answers"] += check(world)
        for writer in world.writers:
            did.update(writer.steps)

    worlds()
    print(dict(sorted(did.items())))  # noqa: T201 - what was done, shown with a failure
    assert did["answers"] >= 500
    for name in ("advance", "append"):
        assert min(did[f"{name} {what}"] for what in ("answered", "moved on", *LOSSES)) >= 3
    assert min(did[what] for what in ("guessed wrong", "lapsed")) >= 5
