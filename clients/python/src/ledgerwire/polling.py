"""The same conversation by polls, for where no WebSocket is to be had: speaks to a `Peer` as a connection does.

What the peer says is taken as requests, and what the polls bring is told to it in the frames of the protocol, so its
state machine is the same, and it goes on from its cursors when there is a socket again. How workers are is not told.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Never, Protocol
from urllib.parse import quote

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import Rejected
from ledgerwire.http import Http, NoAnswer
from ledgerwire.model import TERMINAL, Cursor
from ledgerwire.reporting import Stalled
from ledgerwire.settings import Timing
from ledgerwire.token import NoToken

_IDS_MAX: Final = 100
_IDS_CHARACTERS_MAX: Final = 4_000
"""Of a URL's query; servers and those between take lines of 8 KiB."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_PAGE: Final = 200
_CEILING_SECONDS: Final = 15.0
_FRAMES_AT_ONCE: Final = 64


class Peer(Protocol):
    """Of `link.Peer`, what a poll needs."""

    def welcomed(self, welcome: wire.Welcome) -> None: ...
    async def received(self, message: wire.Message) -> None: ...
    def outgoing(self, now: float, at_most: int) -> list[bytes]: ...
    def next_due(self, now: float) -> float | None: ...
    def lost(self) -> None: ...


@dataclass(slots=True)
class _Polled:
    """A subscription: `told` when its `subscribed` was said; `wait_until` while the task is not there yet."""

    task_id: str
    cursor: Cursor | None
    latest: bool
    wait_until: float | None
    told: bool = False


class Polling:
    """Polls for a peer until it is cancelled."""

    def __init__(self, peer: Peer, http: Http, timing: Timing, every_seconds: float, dice: random.Random) -> None:
        self._peer = peer
        self._http = http
        self._every_seconds = every_seconds
        self._backoff = FullJitter(every_seconds, max(_CEILING_SECONDS, every_seconds))
        self._dice = dice
        self._polled: dict[str, _Polled] = {}
        self._requests: list[wire.Message] = []
        self._epoch = ""
        self._wake = asyncio.Event()
        self._failures = 0
        self._fresh = False
        self.heard_at: float | None = None
        """When the gateway has answered last, in the loop's time."""

    @property
    def answered(self) -> bool:
        """Whether the last poll was."""
        return self.heard_at is not None and not self._failures

    def wake(self) -> None:
        """Ask the peer for its frames now."""
        self._wake.set()

    async def run(self) -> Never:
        """Raises Unauthenticated, NoGateway: it is of no use here."""
        loop = asyncio.get_running_loop()
        self._peer.welcomed(wire.Welcome("polling", "", 0, wire.FRAME_BYTES_DEFAULT))
        poll_at = loop.time()
        try:
            while True:
                self._wake.clear()
                await self._hear()
                if self._fresh or loop.time() >= poll_at:
                    self._fresh = False
                    poll_at = loop.time() + await self._round()
                due = self._peer.next_due(loop.time())
                pause = poll_at - loop.time() if due is None else min(due, poll_at - loop.time())
                try:
                    async with asyncio.timeout(max(0.0, pause)):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # something is due
        finally:
            self._peer.lost()

    # ── what the peer says ──────────────────────────────────────────────────────────────────────────────────

    async def _hear(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            frames = self._peer.outgoing(now, _FRAMES_AT_ONCE)
        except Stalled:  # the gateway is away: what was asked is asked again
            self._polled.clear()
            self._requests.clear()
            self._peer.lost()
            frames = self._peer.outgoing(now, _FRAMES_AT_ONCE)
        for frame in frames:
            message = wire.decode(frame)
            match message["type"]:
                case "subscribe" if not all(_ID.fullmatch(task["task_id"]) for task in message["tasks"]):
                    # Said here, since one such id would spoil a poll for all others.
                    refusal = _refusal("bad_task_id", "The gateway takes no such task id.", retryable=False)
                    await self._peer.received({"type": "reply", "id": message["id"], **refusal})
                    continue
                case "subscribe":
                    self._subscribe(message, now)
                    self._fresh = True
                case "unsubscribe":
                    for task_id in message["task_ids"]:
                        self._polled.pop(task_id, None)
                case "cancel":
                    self._requests.append(message)
                    continue
                case _:
                    pass  # a new token is used from the next request on
            await self._peer.received({"type": "reply", "id": message["id"], "ok": True})
        requests, self._requests = self._requests, []
        for message in requests:
            await self._cancel(message)

    def _subscribe(self, message: wire.Message, now: float) -> None:
        wait_ms = message.get("wait_ms")
        for task in message["tasks"]:
            self._polled[task["task_id"]] = _Polled(
                task["task_id"],
                wire.cursor(task.get("after")),
                latest=message["mode"] == "latest",
                wait_until=None if wait_ms is None else now + wait_ms / 1000,
            )

    async def _cancel(self, message: wire.Message) -> None:
        body = {name: message[name] for name in ("reason",) if name in message}
        reply: wire.Message = {"type": "reply", "id": message["id"], "ok": True}
        try:
            reply |= await self._http.post(f"/tasks/{quote(message['task_id'], safe='')}/cancel", body)
        except Rejected as error:
            reply |= _refusal(error.code, error.message, retryable=False)
        except (NoAnswer, NoToken) as error:
            reply |= _refusal("unknown_retry", str(error), retryable=True)
        await self._peer.received(reply)

    # ── what the polls bring ────────────────────────────────────────────────────────────────────────────────

    async def _round(self) -> float:
        """Poll for everything once; seconds until the next round."""
        try:
            for part in self._parts():
                await self._poll(part)
        except (NoAnswer, NoToken, wire.Malformed) as error:
            self._failures += 1
            told = error.retry_after_seconds if isinstance(error, NoAnswer) else None
            return max(told or 0.0, self._backoff.delay(self._failures, self._dice))
        self._failures = 0
        return self._every_seconds

    def _parts(self) -> Iterator[list[_Polled]]:
        part: list[_Polled] = []
        for polled in list(self._polled.values()):
            if len(part) == _IDS_MAX or sum(len(each.task_id) + 21 for each in part) > _IDS_CHARACTERS_MAX:
                yield part
                part = []
            part.append(polled)
        if part:
            yield part

    async def _poll(self, part: list[_Polled]) -> None:
        seen = [each.cursor.seq if each.told and each.cursor is not None else 0 for each in part]
        query = {"ids": ",".join(each.task_id for each in part), "after": ",".join(map(str, seen))}
        if self._epoch:
            query["epoch"] = self._epoch
        answer = await self._http.get("/poll", query)
        self.heard_at = asyncio.get_running_loop().time()
        with wire.Checked("poll"):
            self._epoch = str(answer["epoch"])
            found = {one["task_id"]: one for one in answer["tasks"]}
        for polled in part:
            if self._polled.get(polled.task_id) is polled and polled.task_id in found:
                await self._tell(polled, found[polled.task_id])

    async def _tell(self, polled: _Polled, one: wire.Message) -> None:
        task = one.get("task")
        if one["verdict"] == "unknown":
            await self._unknown(polled)
            return
        if task is None:
            pass  # nothing has happened
        elif polled.cursor is None or not self._goes_on(polled.cursor, int(task["seq"])):
            await self._snapshot(polled, task)
        else:
            if not polled.told or polled.wait_until is not None:
                await self._subscribed(polled, task, recovered=True)
            polled.wait_until = None
            if not polled.latest:
                await self._transitions(polled, task)
            elif task["seq"] > polled.cursor.seq:
                polled.cursor = Cursor(self._epoch, int(task["seq"]))
                await self._peer.received({"type": "snapshot", "task": task})
        told_all = task is None or (polled.cursor is not None and polled.cursor.seq >= int(task["seq"]))
        if one["verdict"] == "ended" and told_all:
            self._forget(polled)

    def _goes_on(self, cursor: Cursor, seq: int) -> bool:
        return cursor.epoch == self._epoch and cursor.seq <= seq

    async def _unknown(self, polled: _Polled) -> None:
        now = asyncio.get_running_loop().time()
        waiting = (
            polled.wait_until is not None and now < polled.wait_until and not (polled.cursor and polled.cursor.seq)
        )
        if waiting and polled.told:
            return
        polled.told = True
        polled.cursor = Cursor(self._epoch, 0)  # from its beginning when it appears
        if not waiting:
            self._forget(polled)
        members = {"verdict": "unknown", "epoch": self._epoch, "seq": 0, "recovered": waiting, "waiting": waiting}
        await self._peer.received({"type": "subscribed", "task_id": polled.task_id, **members})

    async def _subscribed(self, polled: _Polled, task: wire.Message, *, recovered: bool) -> None:
        polled.told = True
        verdict = "ended" if task["status"] in TERMINAL else "live"
        members = {"verdict": verdict, "epoch": self._epoch, "seq": int(task["seq"]), "recovered": recovered}
        await self._peer.received({"type": "subscribed", "task_id": polled.task_id, **members})

    async def _snapshot(self, polled: _Polled, task: wire.Message) -> None:
        """Begin with a snapshot; where there was a cursor, say that it could not be gone on from."""
        origin, polled.cursor = polled.cursor, Cursor(self._epoch, int(task["seq"]))
        polled.wait_until = None
        await self._subscribed(polled, task, recovered=False)
        if origin is not None:
            reason = "other_epoch" if origin.epoch != self._epoch else "beyond_head"
            if origin.epoch == self._epoch and origin.seq <= polled.cursor.seq:
                reason = "not_in_ledger"
            await self._peer.received(
                {
                    "type": "notice",
                    "kind": "jumped",
                    "task_id": polled.task_id,
                    "reason": reason,
                    "from": {"epoch": origin.epoch, "seq": origin.seq},
                }
            )
        await self._peer.received({"type": "snapshot", "task": task})

    async def _transitions(self, polled: _Polled, task: wire.Message) -> None:
        """All that came after the cursor, a page at a time; a hole in it is a jump."""
        path = f"/tasks/{quote(polled.task_id, safe='')}/transitions"
        more = True
        while more and polled.cursor is not None:
            page = await self._http.get(path, {"after": polled.cursor.seq, "limit": _PAGE})
            with wire.Checked("page"):
                epoch, transitions, more = str(page["epoch"]), list(page["transitions"]), bool(page["more"])
            if epoch != self._epoch:
                raise NoAnswer("the ledger has another history since the poll")
            for transition in transitions:
                if transition["seq"] != polled.cursor.seq + 1:
                    await self._snapshot(polled, task)
                    return
                polled.cursor = Cursor(epoch, polled.cursor.seq + 1)
                await self._peer.received({"type": "transition", **transition})
            await self._hear()
            if self._polled.get(polled.task_id) is not polled:  # its consumer is slow, or has gone
                return

    def _forget(self, polled: _Polled) -> None:
        if self._polled.get(polled.task_id) is polled:
            del self._polled[polled.task_id]


def _refusal(code: str, sentence: str, *, retryable: bool) -> wire.Message:
    return {"ok": False, "error": {"code": code, "message": sentence, "retryable": retryable}}
