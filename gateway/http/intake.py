"""Takes in one batch of reports: NDJSON in, NDJSON out, both as streams.

Each line goes to the writer as soon as it is here, and its outcome is told, in the order of the lines, as soon as it is
known. One coroutine reads, one writes; a line costs no task. What has been submitted is committed whatever becomes of
the request. A body is never held: beyond the bounds below no more is read, and TCP makes the sender wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

import structlog
from aiohttp import web

from gateway.auth import Principal
from gateway.protocol import codec
from gateway.protocol.access import wish
from gateway.protocol.burst import Burst
from gateway.protocol.errors import ProtocolError, as_protocol_error
from gateway.protocol.ndjson import Inflater, Lines
from gateway.services import Services
from gateway.topics import STOPPING
from ledger.errors import LedgerError
from ledger.model import Head, Key, Receipt, Rejection

log = structlog.get_logger(__name__)

OUTSTANDING_LINES: Final = 1_000
"""Lines of one batch that wait for their commit: two group commits, so that one gathers while the other is at work."""
OUTSTANDING_BYTES: Final = 1024 * 1024
"""The same lines in bytes: as many of 1 KiB, and enough of the largest to keep the writer busy."""
UNTOLD_BYTES: Final = 1024 * 1024
"""Outcomes that wait to be taken by the client. Most HTTP libraries read the answer when they have sent everything;
so much lets them send some thousand lines. Beyond it the client is not read from until it reads."""
LINES: Final = 100_000
REQUEST_BYTES: Final = 64 * 1024 * 1024
"""A batch, as it comes and inflated. A larger one loses more when it breaks off, and is no faster than two."""
LINE_SECONDS: Final = 10.0
"""How long the next whole line may be on its way: a sender that has gone, or that sends a byte now and then, is cut."""
REQUEST_SECONDS: Final = 300.0
"""For reading all of it: `LINES` at a rate that a small database keeps up with, several times over."""
TAKE_SECONDS: Final = 20.0
"""How long the client may take for `BYTES_PER_WRITE` of the answer."""
BYTES_PER_READ: Final = 64 * 1024
BYTES_PER_WRITE: Final = 32 * 1024
LONGEST_PAUSE_SECONDS: Final = 5.0
"""Between two turns of one whose principal or tenant has reported too much: a stop must not wait for longer."""
LINES_PER_TURN: Final = 50
"""Then the others have their turn: a batch that is all here must not hold up a ping."""

HEADERS: Final = {
    "Content-Type": "application/x-ndjson",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold outcomes back
}

_Answer = asyncio.Future[Receipt | Rejection] | ProtocolError
_Asked = tuple[int, int | str | None, _Answer, int]
"""The line's number, its id, its outcome to be, and its size."""


class Intake:
    """One request. `run` it once; it is also a watcher of the hub, to hear that the node stops."""

    def __init__(self, request: web.Request, services: Services, principal: Principal, *, gzip: bool) -> None:
        self._request = request
        self._services = services
        self._principal = principal
        self._response = web.StreamResponse(headers=HEADERS)
        self._inflater = Inflater() if gzip else None
        self._splitter = Lines(codec.FRAME_BYTES)
        self._outstanding: deque[_Asked] = deque()
        self._untold: deque[bytes] = deque()
        self.lines = 0
        """Lines read, blank ones too."""
        self._refused = 0
        self.outstanding_bytes = 0
        self.untold_bytes = 0
        self._wire_bytes = 0
        self._plain_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._wake = asyncio.Event()  # there is something to tell, or nothing more will come
        self._all_read = False
        self._stopped = False
        self._over = False
        self._patience: asyncio.Timeout | None = None
        loop = asyncio.get_running_loop()
        self._read_until = loop.time() + REQUEST_SECONDS
        self._line_until = loop.time() + LINE_SECONDS

    @property
    def outstanding(self) -> int:
        """Lines whose outcome is not known yet, or waits for that of one before them."""
        return len(self._outstanding)

    async def run(self) -> web.StreamResponse:
        """Read all lines and tell all outcomes.

        Raises `ProtocolError` when there is no line to tell of. A client that goes in the middle is no error.
        """
        loop = asyncio.get_running_loop()
        last_call = loop.call_at(self._read_until + TAKE_SECONDS, self._cut)
        self._services.hub.join(self)
        telling = asyncio.create_task(self._tell(), name="ingest")
        broken_off: ProtocolError | None = None
        gone = False
        try:
            try:
                await self._read()
            except ProtocolError as error:
                broken_off = error
            self._all_read = True
            self._wake.set()
            await asyncio.wait([telling])  # `_cut` ends it when the client takes nothing
            telling.result()
            if broken_off is not None:
                if not self._response.prepared:
                    raise broken_off
                await self._write(codec.broken_off(self.lines + 1, broken_off))
            await self._write(b"")
        except ConnectionError:
            gone = True
        finally:
            self._over = True
            self._owe(self.lines % LINES_PER_TURN)
            last_call.cancel()
            self._services.hub.leave(self)
            if not telling.done():
                telling.cancel()
                await asyncio.wait([telling])
            if not telling.cancelled():
                telling.exception()  # it has been told, or is the same that ended the reading
            log.info(
                "batch_taken_in",
                tenant=self._principal.tenant,
                lines=self.lines,
                refused=self._refused,
                bytes=self._wire_bytes,
                broken_off="peer_gone" if gone else None if broken_off is None else broken_off.code,
            )
        return self._response

    # As the hub's watcher

    def deliver(self, burst: Burst) -> None:
        """Nothing is watched."""

    def see(self, key: Key, head: Head) -> None:
        """Nothing is watched."""

    def notice(self, kind: str) -> None:
        """When the node stops, no more is read; what has been submitted is still told."""
        if kind == STOPPING:
            self._stopped = True
            self._room.set()
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(asyncio.get_running_loop().time())

    def give_up(self) -> None:
        """Nothing is watched."""

    # Reading

    async def _read(self) -> None:
        while chunk := await self._chunk():
            for part in (chunk,) if self._inflater is None else self._inflater.feed(chunk):
                self._plain_bytes += len(part)
                if self._plain_bytes > REQUEST_BYTES:
                    raise too_large(f"{REQUEST_BYTES} bytes")
                for line in self._splitter.feed(part):
                    await self._take(line)
                await asyncio.sleep(0)
        if self._inflater is not None:
            self._inflater.end()
        for line in self._splitter.end():
            await self._take(line)

    async def _chunk(self) -> bytes:
        """What has come, b"" at the end; waits no longer than for the next whole line."""
        if self._stopped:
            raise stopping()
        try:
            async with asyncio.timeout_at(min(self._line_until, self._read_until)) as self._patience:
                chunk = await self._request.content.read(BYTES_PER_READ)
        except TimeoutError as error:
            if self._stopped:
                raise stopping() from error
            raise ProtocolError(
                "request_timeout",
                f"A line may take {LINE_SECONDS:g} s, a batch {REQUEST_SECONDS:g} s; send the rest in another request.",
            ) from error
        except web.RequestPayloadError as error:
            raise ProtocolError("bad_request", "The body is not what its headers say.") from error
        finally:
            self._patience = None
        self._wire_bytes += len(chunk)
        if self._wire_bytes > REQUEST_BYTES:
            raise too_large(f"{REQUEST_BYTES} bytes")
        return chunk

    async def _take(self, line: bytes | None) -> None:
        """Submit a line (None: one that was too long), as soon as there is room for it."""
        if self.lines >= LINES:
            raise too_large(f"{LINES} lines")
        if not self._room.is_set():
            await self._room.wait()  # until commits or `_cut` make it: both are bounded
        if self._stopped:
            raise stopping()
        if self._over:
            raise ConnectionResetError("the client has gone")
        self.lines += 1
        if self.lines % LINES_PER_TURN == 0:
            await asyncio.sleep(min(self._owe(LINES_PER_TURN), LONGEST_PAUSE_SECONDS))
        self._line_until = asyncio.get_running_loop().time() + LINE_SECONDS
        if line is None:
            error = ProtocolError("frame_too_large", f"A line may have {codec.FRAME_BYTES} bytes; send less at once.")
            self._ask(None, error, 0)
        elif line.strip():
            self._submit(line)

    def _owe(self, lines: int) -> float:
        """So many count; seconds until principal and tenant may report more: a batch is read no faster, not refused."""
        who = self._principal
        return self._services.quotas.wait_to_write(who.tenant, who.subject, lines, time.monotonic())

    def _submit(self, line: bytes) -> None:
        message = codec.decode_line(line)
        if isinstance(message, codec.Unreadable):
            self._ask(message.id, message.error, len(line))
            return
        try:
            answer = self._services.writer.submit(wish(self._principal, message))
        except ProtocolError as error:
            self._ask(message.id, error, len(line))
        except LedgerError as error:
            self._ask(message.id, as_protocol_error(error), len(line))
        else:
            self._ask(message.id, answer, len(line))
            answer.add_done_callback(self._answered)

    def _ask(self, id_: int | str | None, answer: _Answer, size: int) -> None:
        self._outstanding.append((self.lines, id_, answer, size))
        self.outstanding_bytes += size
        self._settle()

    # Telling

    def _answered(self, answer: asyncio.Future[Receipt | Rejection]) -> None:
        answer.exception()  # seen, also when nobody is left to be told
        if not self._over:
            self._settle()

    def _settle(self) -> None:
        """Move the outcomes that are next in line to those that can be told, while there is room for them."""
        while self._outstanding and self.untold_bytes < UNTOLD_BYTES:
            line, id_, answer, size = self._outstanding[0]
            if isinstance(answer, asyncio.Future) and not answer.done():
                break
            self._outstanding.popleft()
            self.outstanding_bytes -= size
            known = _known(answer)
            self._refused += isinstance(known, ProtocolError)
            told = codec.outcome(line, id_, known)
            self._untold.append(told)
            self.untold_bytes += len(told)
            self._wake.set()
        self._note_room()

    def _note_room(self) -> None:
        if self._stopped or self._over:
            return  # the room stays open for whoever waits to see it
        if (
            len(self._outstanding) < OUTSTANDING_LINES
            and self.outstanding_bytes < OUTSTANDING_BYTES
            and self.untold_bytes < UNTOLD_BYTES
        ):
            self._room.set()
        else:
            self._room.clear()

    async def _tell(self) -> None:
        """Write outcomes as they become known, those that are ready together; ends when all are told."""
        try:
            while self._untold or self._outstanding or not self._all_read:
                if self._untold:
                    await self._write(self._take_untold())
                else:
                    self._wake.clear()
                    await self._wake.wait()  # bounded by the writer's deadlines and those of reading
        finally:
            self._over = True
            self._room.set()  # a reader that waits for it sees that it is over

    def _take_untold(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._untold and size < BYTES_PER_WRITE:
            taken.append(self._untold.popleft())
            size += len(taken[-1])
        self.untold_bytes -= size
        self._settle()
        return b"".join(taken)

    async def _write(self, data: bytes) -> None:
        """Write, or with b"" end the answer. A client that does not take it is cut: a drain survives no timeout."""
        watch = asyncio.get_running_loop().call_later(TAKE_SECONDS, self._cut)
        try:
            if not self._response.prepared:
                await self._response.prepare(self._request)
            await (self._response.write(data) if data else self._response.write_eof())
        finally:
            watch.cancel()

    def _cut(self) -> None:
        if self._request.transport is not None:
            log.info("batch_cut", tenant=self._principal.tenant, lines=self.lines, untold_bytes=self.untold_bytes)
            self._request.transport.abort()


def _known(answer: _Answer) -> Receipt | ProtocolError:
    if isinstance(answer, ProtocolError):
        return answer
    error = answer.exception()
    if isinstance(error, LedgerError):
        return as_protocol_error(error)
    if error is not None:
        return ProtocolError("internal", "The server failed on this; it is in its log.")
    known = answer.result()
    return ProtocolError(known.code, known.message) if isinstance(known, Rejection) else known


def too_large(bound: str) -> ProtocolError:
    """The batch goes beyond this bound."""
    return ProtocolError("request_too_large", f"A batch may have {bound}; send the rest in another request.")


def stopping() -> ProtocolError:
    """The node stops: nothing more is read."""
    return ProtocolError(
        "unavailable", "This server is shutting down; send the lines from here on again.", retry_after_ms=1_000
    )
