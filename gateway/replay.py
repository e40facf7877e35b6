"""Answers what the sessions of a node want to read from the ledger: many sessions and subscriptions, few queries.

What sessions ask for while others are being answered is read together, each task and place once: after a restart,
thousands of clients come back at the same moment, and many of them watch the same tasks. A question never joins a read
that has begun before it: what it brings would be older than what the session has been told to wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.outbox import BYTES as OUTBOX_BYTES
from gateway.outbox import FRAMES as OUTBOX_FRAMES
from gateway.protocol.codec import transition_frame
from gateway.protocol.effects import Event, Read, Want
from ledger.model import Head, Key, Task, Transition
from ledger.reader import Reader

PAGE: Final = OUTBOX_FRAMES // 2
"""Transitions for one session at once: a page must fit into its outbox beside what comes live."""
SNAPSHOT_BYTES: Final = OUTBOX_BYTES // 2
"""Payloads of snapshots for one session at once; one is always given."""
WANTS_AT_ONCE: Final = 256
"""Different ones in one read, after which no further session is let in: a bound on its time and memory."""
READS_AT_ONCE: Final = 2
"""Of a node: half of the read lane, so that HTTP finds a connection in a crowd."""

_Place = tuple[Key, int]


class Replays:
    """The reads of one node's sessions."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._waiting: deque[_Question] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = 0
        self.reads = 0
        """Common reads, since the start."""

    async def answer(self, wants: Sequence[Want]) -> list[Read]:
        """The answers to some of these at least; the others are to be asked for again. Raises `Unavailable`."""
        question = _Question(wants)
        self._waiting.append(question)
        if self._reading < READS_AT_ONCE:
            self._reading += 1
            task = asyncio.create_task(self._read(), name="replays")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await question.answer

    async def _read(self) -> None:
        await asyncio.sleep(0)  # those who ask in the same turn come along
        while questions := self._take():
            self.reads += 1
            try:
                found = await self._find(questions)
                left = [question for question in questions if not question.settle(found)]
            except Exception as error:  # noqa: BLE001 - each of those who asked says what it makes of it
                for question in questions:
                    question.fail(error)
            else:
                self._waiting.extendleft(reversed(left))
        self._reading -= 1

    def _take(self) -> list[_Question]:
        """Those whose turn it is; whoever has gone is left out."""
        taken: list[_Question] = []
        different: set[Want] = set()
        while self._waiting and len(different) < WANTS_AT_ONCE:
            question = self._waiting.popleft()
            if not question.answer.done():
                taken.append(question)
                different.update(question.wants)
        return taken

    async def _find(self, questions: Sequence[_Question]) -> _Found:
        wants = dict.fromkeys(want for question in questions for want in question.wants)
        snapshots = list(dict.fromkeys(want.slot[0] for want in wants if want.after is None))
        places = list(dict.fromkeys((want.slot[0], want.after) for want in wants if want.after is not None))
        tasks = {task.key: task for task in await self._reader.tasks(snapshots)} if snapshots else {}
        if not places:
            return _Found(tasks, {}, {})
        heads = await self._reader.heads(list(dict.fromkeys(key for key, _ in places)))
        return _Found(tasks, heads, await self._pages(places, len(questions)))

    async def _pages(self, places: Sequence[_Place], sessions: int) -> dict[_Place, list[Event]]:
        """What follows each of these; those for which there was no room are missing, but never the first.

        No more than so many sessions can take: one that comes back with many tasks takes a page, too.
        """
        found = await self._reader.pages(places, each=PAGE, limit=PAGE * sessions)
        # The page may have ended behind the last one that has rows: nothing is known of those that follow it.
        known = max(found) + 1 if found else len(places)
        made: dict[_Place, Event] = {}
        pages: dict[_Place, list[Event]] = {}
        for number, place in enumerate(places[:known]):
            pages[place] = [_event(transition, made) for transition in found.get(number, ())]
        return pages


def _event(transition: Transition, made: dict[_Place, Event]) -> Event:
    """Encoded once, also where a task is read from several places."""
    place = (transition.key, transition.seq)
    event = made.get(place)
    if event is None:
        event = made[place] = Event(transition, transition_frame(transition))
    return event


class _Found:
    """What one read has brought."""

    def __init__(
        self, tasks: Mapping[Key, Task], heads: Mapping[Key, Head], pages: Mapping[_Place, list[Event]]
    ) -> None:
        self.tasks = tasks
        self.heads = heads
        self.pages = pages


class _Question:
    """What one session wants to know, and who waits for it."""

    def __init__(self, wants: Sequence[Want]) -> None:
        self.wants = wants
        self.answer: asyncio.Future[list[Read]] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """It could not be read."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def settle(self, found: _Found) -> bool:
        """Answer it, if anything of it was found; else it has to be asked again."""
        if self.answer.done():
            return True
        reads = [*self._snapshots(found), *self._replays(found)]
        if reads or not self.wants:
            self.answer.set_result(reads)
        return self.answer.done()

    def _snapshots(self, found: _Found) -> list[Read]:
        reads: list[Read] = []
        size = 0
        for want in self.wants:
            if want.after is None:
                task = found.tasks.get(want.slot[0])
                size += 0 if task is None else sum(len(part or b"") for part in (task.data, task.result, task.error))
                if reads and size > SNAPSHOT_BYTES:
                    break
                reads.append(Read(want=want, head=None if task is None else task.head, task=task))
        return reads

    def _replays(self, found: _Found) -> list[Read]:
        reads: list[Read] = []
        room = PAGE
        for want in self.wants:
            if want.after is None or not room:
                continue
            page = found.pages.get((want.slot[0], want.after))
            if page is not None:
                events = page[:room]
                room -= len(events)
                reads.append(Read(want=want, head=found.heads.get(want.slot[0]), events=events))
        return reads
