"""What all buses with a server have in common: one loop that connects, sends what has gathered, and asks for an echo.

Whoever announces only leaves hints in a bounded buffer. A connection counts as good after the first echo, and the hub
is told then that hints may have been lost. When it breaks, or an echo does not come, it is made anew, for ever, after
pauses that grow and are random.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import structlog

from gateway.bus import hints
from gateway.bus.port import BusState, Hint, OnGap, OnHint
from gateway.bus.unsent import Unsent
from ledger.model import Key

log = structlog.get_logger(__name__)

PROBE_SECONDS: Final = 5.0
"""Between two echoes: a link that swallows everything is noticed by nothing else."""
ECHO_SECONDS: Final = 2.0
"""A healthy server needs milliseconds."""
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 1.0
LAST_SECONDS: Final = 0.5
"""At the end, for the hints that still wait: beyond it the other nodes learn of them by their re-read."""


class Broken(Exception):
    """The connection is of no use any more, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Carrier(ABC):
    """A bus but for its connection, which a subclass brings."""

    remote = True
    wants_frames = False
    advice: ClassVar[Mapping[str, str]] = {}
    """What to do about a reason, for the log."""

    def __init__(self, kind: str, node: str, *, max_frame_bytes_each: int, probe_seconds: float) -> None:
        """`node` is the name of this node among the others, a few random hex digits."""
        self.node = node
        self._kind = kind
        self._probe_seconds = probe_seconds
        self._own = hints.opening(node).encode()
        self._unsent = Unsent(max_frame_bytes_each=max_frame_bytes_each)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._on_hint: OnHint
        self._on_gap: OnGap
        self._broken: str | None = None
        self._reason = "connecting"
        self._told: set[str] = set()  # of this outage: servers may fail by turns, each for a reason of its own
        self._closing = False
        self._sent = self._heard = self._garbled = self._connects = 0

    # As a bus

    @property
    def state(self) -> BusState:
        """How it is."""
        return BusState(
            kind=self._kind,
            healthy=not self._reason,
            reason=self._reason,
            sent=self._sent,
            heard=self._heard,
            dropped=self._unsent.dropped,
            garbled=self._garbled,
            connects=self._connects,
        )

    async def start(self, on_hint: OnHint, on_gap: OnGap) -> None:
        """Begin to connect."""
        self._on_hint, self._on_gap = on_hint, on_gap
        self._task = asyncio.create_task(self._run(), name=f"bus-{self._kind}")

    def announce(self, epoch: str, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        """Leave it for the loop."""
        self._unsent.add(epoch, heads, frames)
        self._wake.set()

    def interest(self, key: Key) -> None:  # noqa: B027 - not every bus is asked for single tasks
        """Every node hears everything, unless a subclass says otherwise."""

    def no_interest(self, key: Key) -> None:  # noqa: B027 - as above
        """As before."""

    async def close(self) -> None:
        """Send what waits, if there is a server that takes it, and stop."""
        task, self._task = self._task, None
        if task is not None:
            self._closing = True
            self._wake.set()
            if not self._reason:
                await asyncio.wait([task], timeout=LAST_SECONDS)
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_SECONDS)
        self._reason = "closed"

    # For the subclass

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and listen. Raises `Broken`."""

    @abstractmethod
    async def _echo(self) -> None:
        """Return when something has come back that was sent now. Raises `Broken` when nothing does."""

    @abstractmethod
    async def _send(self, unsent: Unsent) -> int:
        """Send some of what waits; how many hints. Must not wait long. Raises `Broken`."""

    async def _follow(self) -> float | None:
        """Bring the server to what is wanted here; in how many seconds to look again. Raises `Broken`."""
        return None

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go of the connection, in whatever state. Must not raise, nor wait for more than a second."""

    def _breaks(self, reason: str) -> None:
        """The connection has ended."""
        self._broken = reason
        self._wake.set()

    def _take(self, message: bytes) -> None:
        """A message has come. Must not fail."""
        if message.startswith(self._own):
            return
        try:
            heard = hints.decode(message)
        except hints.Garbled as error:
            self._garbled += 1
            if self._garbled == 1:
                log.warning("bus_garbled", bus=self._kind, detail=str(error)[:200])
            return
        self._heard += len(heard)
        for hint in heard:
            self._tell(hint)

    def _tell(self, hint: Hint) -> None:
        try:
            self._on_hint(hint)
        except Exception:
            log.exception("bus_listener_fault", key=hint.key)

    # The loop

    async def _run(self) -> None:
        failures = 0
        while True:
            self._broken = None
            connects = self._connects
            try:
                await self._carry()
            except Broken as error:
                self._ails(error.reason)
            except Exception:
                log.exception("bus_fault", bus=self._kind)
                self._ails("fault")
            finally:
                await self._disconnect()
            if self._closing:
                return
            failures = 1 if self._connects > connects else failures + 1
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads load, guards nothing

    async def _carry(self) -> None:
        loop = asyncio.get_running_loop()
        await self._connect()
        await self._echo()
        self._connects += 1
        self._is_well()
        self._on_gap(None)
        echo_at = loop.time() + self._probe_seconds
        while True:
            if self._broken is not None:
                raise Broken(self._broken)
            if loop.time() >= echo_at:
                await self._echo()
                echo_at = loop.time() + self._probe_seconds
            again_seconds = await self._follow()
            if len(self._unsent):
                self._sent += await self._send(self._unsent)
                continue
            if self._closing:
                await self._echo()  # then the server has all of it
                return
            until = echo_at if again_seconds is None else min(echo_at, loop.time() + again_seconds)
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def _is_well(self) -> None:
        if self._reason:
            log.info("bus_connected", bus=self._kind)
        self._reason = ""
        self._told.clear()

    def _ails(self, reason: str) -> None:
        self._reason = reason
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "bus_away",
                bus=self._kind,
                reason=reason,
                detail=self.advice.get(reason, "Until it is back, nodes learn of each other by their re-read."),
            )
