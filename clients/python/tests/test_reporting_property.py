"""Reports through any course of events: `ledgerwire.reporting` against a model of the ledger's rules."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import QueueFull, rejected
from ledgerwire.model import Receipt, Status
from ledgerwire.reporting import Series, Unacknowledged

LIMIT = 6
OUTCOMES = st.sampled_from(["ok", "busy", "unavailable", "unknown_committed", "unknown_not"])


def accepted(wire_id: int, seq: int) -> wire.Reply:
    receipt = Receipt(task_id="t", seq=seq, status=Status.RUNNING, attempt=1, repeat=False)
    return wire.Reply(wire_id, receipt=receipt)


def to_be_retried(wire_id: int, code: str) -> wire.Reply:
    return wire.Reply(wire_id, rejection=rejected(code, "Not now.", True), retry_after_seconds=0.05)


@dataclass
class ModelTask:
    """A task of the model ledger, with the rules of the wire protocol."""

    keys: dict[str, int] = field(default_factory=dict)
    numbers: dict[int, tuple[int, int]] = field(default_factory=dict)
    last_n: int = 0
    seq: int = 0
    values: list[int] = field(default_factory=list)

    def commit(self, message: dict[str, Any]) -> tuple[str, int]:
        """("ok", seq), or a code that must never come."""
        if message["attempt"] == "new":
            if message["key"] not in self.keys:
                self.seq += 1
                self.keys[message["key"]] = self.seq
            return "ok", self.keys[message["key"]]
        n, value = message["n"], message["progress"]
        if n in self.numbers:
            known, seq = self.numbers[n]
            return ("ok", seq) if known == value else ("key_reused", 0)
        if n <= self.last_n:
            return "superseded", 0
        self.seq += 1
        self.last_n = n
        self.numbers[n] = (value, self.seq)
        self.values.append(value)
        return "ok", self.seq


class ReportsThroughAnything(RuleBasedStateMachine):
    """Replies that get lost, answers to be retried, broken connections, late copies: each report exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Unacknowledged(LIMIT, FullJitter(0.1, 10.0), random.Random(1))
        self.now = 0.0
        self.ledger: dict[str, ModelTask] = {}
        self.all_series: list[Series] = []
        self.offered: dict[str, list[int]] = {}
        self.acknowledged = 0
        self.sent: list[dict[str, Any]] = []
        self.stale: list[dict[str, Any]] = []
        self.replies: list[wire.Reply] = []
        self.values = 0
        for name in ("a", "b"):
            series = self.queue.series(name)
            self.all_series.append(series)
            self.ledger[name] = ModelTask()
            self.offered[name] = []
            body = {"task_id": name, "attempt": "new", "key": name}
            self.queue.offer(series, "report", body, opening=True, counted=False)

    @rule(which=st.integers(0, 1))
    def offer(self, which: int) -> None:
        series = self.all_series[which]
        self.values += 1
        body = {"task_id": series.task_id, "progress": self.values}
        if not self.queue.room:
            with pytest.raises(QueueFull):
                self.queue.offer(series, "report", body)
            return
        self.queue.offer(series, "report", body)
        self.offered[series.task_id].append(self.values)

    @rule(at_most=st.integers(1, 3))
    def send(self, at_most: int) -> None:
        self.sent += self.queue.due(self.now, at_most)

    @precondition(lambda self: self.sent)
    @rule(outcome=OUTCOMES, data=st.data())
    def serve(self, outcome: str, data: st.DataObject) -> None:
        """The gateway takes any message that is under way: tasks are committed in separate batches."""
        message = self.sent.pop(data.draw(st.integers(0, len(self.sent) - 1)))
        self.replies.append(self.answer(message, outcome))

    @rule(outcome=OUTCOMES, seconds=st.floats(0.01, 2.0))
    def exchange(self, outcome: str, seconds: float) -> None:
        """The usual course in one step: a little later something is sent, served and answered."""
        self.now += seconds
        for message in self.queue.due(self.now, 1):
            self.acknowledged += len(self.queue.settle(self.answer(message, outcome), self.now))

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def serve_a_late_copy(self, data: st.DataObject) -> None:
        """A message of a connection that is long gone reaches the ledger only now."""
        self.commit(self.stale.pop(data.draw(st.integers(0, len(self.stale) - 1))))

    @precondition(lambda self: self.replies)
    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        reply = self.replies.pop(data.draw(st.integers(0, len(self.replies) - 1)))
        settled = self.queue.settle(reply, self.now)
        assert all(each.error is None for each in settled)
        self.acknowledged += len(settled)

    @rule()
    def lose_the_connection(self) -> None:
        self.stale += self.sent
        self.sent.clear()
        self.replies.clear()
        self.queue.lost()

    @rule(seconds=st.floats(0.01, 20.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_ledger_holds_a_prefix_of_what_was_offered(self) -> None:
        for name, task in self.ledger.items():
            assert task.values == self.offered[name][: len(task.values)]

    @invariant()
    def one_message_of_a_task_is_under_way(self) -> None:
        names = [message["task_id"] for message in self.sent]
        assert len(names) == len(set(names))

    def teardown(self) -> None:
        """Once the gateway answers, everything arrives, once, in order."""
        self.lose_the_connection()
        for _ in range(1000):
            if not len(self.queue):
                break
            self.now += 100.0
            for message in self.queue.due(self.now, 10):
                self.acknowledged += len(self.queue.settle(accepted(message["id"], self.commit(message)), self.now))
        assert {name: task.values for name, task in self.ledger.items()} == self.offered
        assert self.acknowledged == sum(map(len, self.offered.values())) + len(self.all_series)
        assert self.queue.room == LIMIT

    def answer(self, message: dict[str, Any], outcome: str) -> wire.Reply:
        """What the gateway makes of a message; `unknown` is what it says when it lost its database meanwhile."""
        if outcome in {"busy", "unavailable"}:
            return to_be_retried(message["id"], outcome)
        seq = 0 if outcome == "unknown_not" else self.commit(message)
        return accepted(message["id"], seq) if outcome == "ok" else to_be_retried(message["id"], "unknown_retry")

    def commit(self, message: dict[str, Any]) -> int:
        verdict, seq = self.ledger[message["task_id"]].commit(message)
        assert verdict == "ok", f"{message} was answered {verdict}"
        return seq


TestReportsThroughAnything = ReportsThroughAnything.TestCase
