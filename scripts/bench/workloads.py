"""The reports that are sent: made as the gateway makes them, in the order in which workers would send them.

A supply is made before the clock starts, digests and all, and what making it cost is counted apart. Pure.

steady  5,000 running tasks, one numbered report each in turn.
short   tasks of ten transitions: create, running, seven of progress, completed with a result; 5,000 at a time, in turn.
hot     the same reports as steady, all for 20 tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from gateway.protocol import messages
from gateway.protocol.requests import create_request, report_request
from ledger.model import Report, Request

TENANT: Final = "bench"
TASKS: Final = 5_000
HOT_TASKS: Final = 20
SHORT_STEPS: Final = 10
OWNERS: Final = 100
NAMES: Final = ("steady", "short", "hot")


class Workload:
    """An endless stream of requests; `opening` must be accepted before the rest is sent.

    `name` is one of `NAMES`, and `prefix` sets its tasks apart from all others in the ledger. `tasks` are worked on at
    once (in `hot` always 20); `steps` are the transitions of a short task.
    """

    def __init__(self, name: str, prefix: str, *, tasks: int = TASKS, steps: int = SHORT_STEPS) -> None:
        self.name = name
        self.tasks = HOT_TASKS if name == "hot" else tasks
        self._steps = steps
        self._prefix = prefix
        self._stream: Iterator[Request] = self._short() if name == "short" else self._numbered(first=2)

    def task_id(self, place: int) -> str:
        """The id of the task at a place, from 0."""
        return f"{self._prefix}-{place:06}"

    def opening(self) -> list[Request]:
        """What makes the tasks exist and run (sequences 1 and 2, n=1); nothing where the stream itself creates them."""
        if self.name == "short":
            return []
        creates: list[Request] = [_create(self.task_id(place)) for place in range(self.tasks)]
        return [*creates, *itertools.islice(self._numbered(first=1), self.tasks)]

    def take(self, count: int) -> list[Request]:
        """The next so many requests, in order."""
        return list(itertools.islice(self._stream, count))

    def _numbered(self, first: int) -> Iterator[Request]:
        for n in itertools.count(first):
            for place in range(self.tasks):
                yield numbered(self.task_id(place), n)

    def _short(self) -> Iterator[Request]:
        for group in itertools.count():
            for step in range(self._steps):
                make = _create if step == 0 else _running if step == 1 else numbered
                make = _completed if step == self._steps - 1 else make
                for place in range(group * self.tasks, (group + 1) * self.tasks):
                    yield make(self.task_id(place), step)


def numbered(task_id: str, n: int, *, attempt: int = 1) -> Report:
    """A worker's numbered report of progress, with about 60 bytes of data and a digest."""
    return report_request(
        TENANT,
        messages.Report(
            task_id=task_id,
            attempt=attempt,
            n=n,
            progress=float(n % 100),
            stage="encoding chunk 17 of 40",
            data={"ts": 1_767_225_600_000 + n, "pad": "x" * 30},
        ),
    )


def payload(n: int) -> dict[str, str]:
    """What a peer stores for one report: the names and texts of the members that `numbered` gives to the ledger."""
    report = numbered("x", n)
    texts = {"attempt": report.attempt, "n": report.n, "progress": report.progress, "stage": report.stage}
    data = (report.data or b"").decode()
    return {name: str(value) for name, value in texts.items()} | {"data": data, "digest": str(report.digest)}


def _create(task_id: str, _step: int = 0) -> Request:
    return create_request(
        TENANT, messages.Create(id=1, task_id=task_id, kind="import", owner=f"user-{_number_of(task_id) % OWNERS}")
    )


def _running(task_id: str, step: int) -> Request:
    return report_request(TENANT, messages.Report(task_id=task_id, attempt=1, n=step, status="running"))


def _completed(task_id: str, step: int) -> Request:
    result = {"rows": 12_345, "url": "https://files.example/" + task_id}
    message = messages.Report(task_id=task_id, attempt=1, n=step, status="completed", progress=100.0, result=result)
    return report_request(TENANT, message)


def _number_of(task_id: str) -> int:
    """The number at the end of a task's id, which spreads tasks over owners."""
    return int(task_id.rpartition("-")[2])
