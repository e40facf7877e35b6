"""Answers what sessions want to read from the ledger: many subscriptions, few queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.outbox import BYTES as OUTBOX_BYTES
from gateway.outbox import FRAMES as OUTBOX_FRAMES
from gateway.protocol.codec import transition_frame
from gateway.protocol.effects import Event, Read, Want
from ledger.model import Key
from ledger.reader import Reader

PAGE: Final = OUTBOX_FRAMES // 2
"""Transitions for one session at once: a page must fit into its outbox beside what comes live."""

SNAPSHOT_BYTES: Final = OUTBOX_BYTES // 2
"""Payloads of snapshots for one session at once; one is always given."""


async def answer(reader: Reader, wants: Sequence[Want]) -> list[Read]:
    """Read for all wants together: one query for snapshots, two for replays.

    A page may be full before all have had their turn; those are left out. Raises `Unavailable`.
    """
    snapshots = [want.slot[0] for want in wants if want.after is None]
    tasks = {task.key: task for task in await reader.tasks(snapshots)} if snapshots else {}
    reads: list[Read] = []
    size = 0
    for want in wants:
        if want.after is None:
            task = tasks.get(want.slot[0])
            size += 0 if task is None else sum(len(part or b"") for part in (task.data, task.result, task.error))
            if reads and size > SNAPSHOT_BYTES:
                break
            reads.append(Read(want=want, head=None if task is None else task.head, task=task))
    cursors = [(want.slot[0], want.after) for want in wants if want.after is not None]
    if not cursors:
        return reads
    heads = await reader.heads([key for key, _ in cursors])
    page: dict[Key, list[Event]] = {}
    for transition in await reader.replay(cursors, limit=PAGE):
        page.setdefault(transition.key, []).append(Event(transition, transition_frame(transition)))
    last_served = next(reversed(page), None)
    for want in wants:
        if want.after is None:
            continue
        key = want.slot[0]
        reads.append(Read(want=want, head=heads.get(key), events=page.get(key, ())))
        if key == last_served:
            break
    return reads
