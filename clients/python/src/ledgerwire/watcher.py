"""The asyncio watcher: many tasks over one connection, each an async iterator."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.delivery import Delivery
from ledgerwire.errors import Closed, LedgerwireError, UnknownTask, fresh
from ledgerwire.feed import Feed, OnLiveness
from ledgerwire.link import Link
from ledgerwire.model import Change, Cursor, Json, Receipt
from ledgerwire.reporting import Stalled
from ledgerwire.settings import Timing
from ledgerwire.token import Token
from ledgerwire.watching import Mode, Phase

CLIENT = "ledgerwire-python/0.1.0"
BUFFER_CHANGES = 256
REQUEST_SECONDS = 30.0
UNKNOWN_ANSWERS = 5
_REQUESTS_MAX = 100


class Watcher:
    """Watches tasks; an async context manager, used from one event loop.

    Entering does not wait for the gateway. `buffer_changes` bounds what is kept for each task while its
    consumer is busy. The other arguments are those of `Worker`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        client: str = CLIENT,
        buffer_changes: int = BUFFER_CHANGES,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._timing = timing or Timing()
        self._dice = dice or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._backoff = FullJitter(self._timing.reconnect_floor_seconds, self._timing.reconnect_ceiling_seconds)
        self._buffer_changes = buffer_changes
        self._feeds: dict[str, Feed] = {}
        self._unsubscribe: dict[str, None] = {}
        self._requests: dict[int, Feed] = {}
        self._ended_by: LedgerwireError | None = None
        self._opened = False
        self.degraded = False
        """Whether the gateway has said that it cannot reach its ledger just now: what is shown may be old."""
        self._link = Link(
            url,
            self,
            token=token,
            client=client,
            timing=self._timing,
            dice=self._dice,
            tls=tls,
            give_up_seconds=self._timing.unreachable_seconds,
            poll_seconds=self._timing.poll_seconds,
        )
        self._delivery = Delivery(_REQUESTS_MAX, self._timing, self._dice, self._link.wake)

    async def __aenter__(self) -> Self:
        """Begin to connect, in the background."""
        if self._opened:
            raise RuntimeError("a watcher is entered once; make another")
        self._opened = True
        self._link.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection. Iterations that are still open raise Closed."""
        await self._link.stop()
        self.ended(Closed("the watcher is closed"))

    @property
    def connected(self) -> bool:
        """Whether there is a connection just now, as far as is known."""
        return self._link.connected

    @property
    def polling(self) -> bool:
        """Whether there is no connection, and the gateway is asked now and then instead."""
        return self._link.polling

    async def subscribe(
        self,
        task_id: str,
        *,
        after: Cursor | None = None,
        wait_seconds: float | None = None,
        unknown_answers: int = UNKNOWN_ANSWERS,
        mode: Mode = "all",
        on_liveness: OnLiveness | None = None,
    ) -> AsyncGenerator[Change, None]:
        """Yield the changes of a task: first a Snapshot, or what came after `after`; then each transition,
        once, in order; it ends after a terminal one.

        `wait_seconds` is for a task that may not exist yet; it is then seen from its first transition. After
        `unknown_answers` in a row that nobody knows the task, or when the wait is over, UnknownTask is raised. `mode`
        "latest" yields only snapshots, the newest each time. Closing the iterator unsubscribes. One task can
        be subscribed once at a time on a watcher (ValueError).

        `on_liveness` is called from the event loop whenever the worker turns out to be late, or live again, or
        lost; it is taken for live at first. It may be ahead of the changes that the consumer has not taken yet.

        Raises UnknownTask, Rejected (`bad_task_id`, `forbidden`, `too_many_subscriptions`), Refused,
        Unreachable, Closed.
        """
        self._check_open()
        if task_id in self._feeds:
            sentence = f"task {task_id} is subscribed on this watcher already"
            raise ValueError(sentence)
        deadline = None if wait_seconds is None else self._now() + wait_seconds
        feed = Feed(
            task_id,
            after,
            mode,
            deadline=deadline,
            limit=self._buffer_changes,
            unknown_answers=unknown_answers,
            on_liveness=on_liveness,
        )
        self._feeds[task_id] = feed
        self._link.wake()
        try:
            while (change := await feed.take()) is not None:
                if feed.resumable:
                    feed.set_aside = False
                    self._link.wake()
                yield change
        finally:
            del self._feeds[task_id]
            if feed.watching.phase not in {Phase.NEEDED, Phase.ENDED}:  # else the gateway has none either
                self._unsubscribe[task_id] = None
                self._link.wake()

    async def cancel(
        self, task_id: str, *, reason: str | None = None, timeout_seconds: float = REQUEST_SECONDS
    ) -> Receipt:
        """Ask that a task be cancelled; `receipt.cancel.stage` is recorded or too_late.

        Raises Rejected, DeliveryTimeout, Refused, Closed.
        """
        self._check_open()
        body: dict[str, Json] = {"task_id": task_id}
        if reason is not None:
            body["reason"] = reason
        receipt = await self._delivery.deliver(self._delivery.queue.series(task_id), "cancel", body, timeout_seconds)
        if receipt is None:
            raise AssertionError("the gateway acknowledged a cancel without a receipt")
        return receipt

    async def refresh(self, token: str, *, timeout_seconds: float = REQUEST_SECONDS) -> None:
        """Replace the token of this and of later connections. Raises Rejected, DeliveryTimeout, Refused."""
        self._check_open()
        self._link.replace_token(token)
        await self._delivery.refresh(token, timeout_seconds)

    # ── Peer ────────────────────────────────────────────────────────────────────────────────────────────────

    def welcomed(self, welcome: wire.Welcome) -> None:
        """A connection is open."""
        self.degraded = False
        self._unsubscribe.clear()
        self._delivery.queue.frame_bytes = welcome.frame_bytes

    async def received(self, message: wire.Message) -> None:
        """A message came."""
        match message["type"]:
            case "reply":
                self._replied(wire.reply(message))
            case "notice" if message.get("kind") in ("degraded", "restored"):
                self.degraded = message["kind"] == "degraded"
            case "subscribed" | "transition" | "snapshot" | "liveness" | "notice":
                await self._told(wire.task_id(message), message)
            case _:
                pass  # a later version of the server may say more

    def outgoing(self, now: float, at_most: int) -> list[bytes]:
        """The frames to send now."""
        frames = self._delivery.due(now, at_most)
        next_id = self._delivery.queue.next_wire_id
        for chunk in wire.chunks(self._unsubscribe):
            frames.append(wire.encode({"type": "unsubscribe", "id": next_id(), "task_ids": chunk}))
        self._unsubscribe.clear()
        for feed in self._feeds.values():
            if feed.waited_in_vain(now):
                sentence = f"Task {feed.watching.task_id} did not appear in time."
                feed.fail(UnknownTask("unknown_task", sentence))
            if feed.unanswered(now, self._timing.reply_seconds):
                sentence = f"no answer to a subscribe for {self._timing.reply_seconds:g} s"
                raise Stalled(sentence)
            if len(frames) < at_most and feed.needs_request(now):
                wire_id = next_id()
                self._requests[wire_id] = feed
                feed.asked_at = now
                frames.append(wire.encode(feed.watching.request(wire_id, feed.wait_ms(now))))
        return frames

    def next_due(self, now: float) -> float | None:
        """Seconds until `outgoing` should be asked again."""
        moments = [self._delivery.next_due(now)]
        moments += [feed.next_due(now, self._timing.reply_seconds) for feed in self._feeds.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    async def renew(self, token: str) -> None:
        """Tell the gateway the new token."""
        await self._delivery.refresh(token, self._timing.reply_seconds)

    def lost(self) -> None:
        """The connection is gone."""
        self._requests.clear()
        self._unsubscribe.clear()
        self._delivery.queue.lost()
        for feed in self._feeds.values():
            feed.watching.interrupt()

    def ended(self, error: LedgerwireError) -> None:
        """There will be no connection any more."""
        self._ended_by = self._ended_by or error
        self._delivery.end(error)
        for feed in self._feeds.values():
            if feed.open:
                feed.fail(error)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _replied(self, reply: wire.Reply) -> None:
        feed = self._requests.pop(reply.id, None) if reply.id is not None else None
        if feed is None:
            self._delivery.settle(reply, self._now())
            self._link.wake()
        elif reply.rejection is None:
            feed.watching.understood(reply.id or 0)
        elif reply.rejection.retryable:
            self._ask_later(feed, reply.retry_after_seconds)
        else:
            feed.fail(reply.rejection)

    async def _told(self, task_id: str, message: wire.Message) -> None:
        feed = self._feeds.get(task_id)
        if feed is None or feed.set_aside or not feed.open:
            return
        if feed.full and message["type"] != "liveness" and not await feed.room(self._timing.slow_seconds):
            feed.set_aside = True
            feed.watching.interrupt()
            self._unsubscribe[task_id] = None
            self._link.wake()
            return
        gaps, worker = feed.watching.gaps, feed.watching.worker
        try:
            change = feed.watching.receive(message)
        except UnknownTask as error:
            feed.unknown(self._now(), error)
            if feed.open:
                self._ask_later(feed, 0.0)
            return
        feed.progressed()
        feed.speak(worker)
        if change is not None:
            feed.offer(change)
        elif feed.watching.gaps > gaps:
            self._ask_later(feed, 0.0)

    def _ask_later(self, feed: Feed, at_least_seconds: float) -> None:
        feed.failures += 1
        feed.not_before = self._now() + max(at_least_seconds, self._backoff.delay(feed.failures, self._dice))
        feed.watching.interrupt()
        self._link.wake()

    def _check_open(self) -> None:
        if self._ended_by is not None:
            raise fresh(self._ended_by)
        if not self._opened:
            raise Closed("enter the watcher first: async with ledgerwire.Watcher(...) as watcher")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
