"""One connection to the gateway, kept up: opens it, says hello, answers pings, reconnects with full jitter.

What is said over it is decided by a `Peer` (a worker's or a watcher's state), whose methods never wait except
`received`. The link knows no tasks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ledgerwire import ending, wire
from ledgerwire.backoff import FullJitter
from ledgerwire.detour import Detour
from ledgerwire.ending import Ending, Said, Unfit
from ledgerwire.errors import LedgerwireError, Unreachable
from ledgerwire.http import Http, NoGateway, base_of
from ledgerwire.polling import Polling
from ledgerwire.reporting import Stalled
from ledgerwire.settings import Timing
from ledgerwire.token import NoToken, Token, Tokens

_log = logging.getLogger("ledgerwire")
# At level DEBUG websockets logs whole frames, also `hello` with its token: not through this client.
_quiet = logging.getLogger("ledgerwire.websocket")
_quiet.setLevel(logging.INFO)

_FRAME_BYTES_MAX = 1_048_576
_FRAMES_AT_ONCE = 64
_YIELD_EVERY = 32
_CLOSE_SECONDS = 2.0


class Peer(Protocol):
    """The state a link speaks for. When it comes to have something to say it calls `Link.wake`."""

    def welcomed(self, welcome: wire.Welcome) -> None:
        """A connection is open; everything that is due goes over it from now on."""

    async def received(self, message: wire.Message) -> None:
        """A message came. May wait a moment, and nothing is read meanwhile. Raises wire.Malformed."""

    def outgoing(self, now: float, at_most: int) -> list[bytes]:
        """The frames to send now. Raises Stalled when the connection is to be abandoned."""

    def next_due(self, now: float) -> float | None:
        """Seconds until `outgoing` should be asked again; None: not before the link is woken."""

    async def renew(self, token: str) -> None:
        """Tell the gateway the new token, over the connection that is open. Raises LedgerwireError."""

    def lost(self) -> None:
        """The connection is gone."""

    def ended(self, error: LedgerwireError) -> None:
        """There will be no connection any more."""


class Link:
    """Keeps one connection for a peer until it is stopped, refused, or down for `give_up_seconds`."""

    def __init__(
        self,
        url: str,
        peer: Peer,
        *,
        token: Token,
        client: str,
        timing: Timing,
        dice: random.Random,
        tls: ssl.SSLContext | None,
        give_up_seconds: float | None,
        poll_seconds: float | None = None,
    ) -> None:
        check_url(url)
        self._url = url
        self._shown_url = url.partition("?")[0]
        self._peer = peer
        self._tokens = Tokens(token, timing.open_seconds)
        self._client = client
        self._timing = timing
        self._dice = dice
        self._tls = tls
        self._give_up_seconds = give_up_seconds
        self._backoff = FullJitter(timing.reconnect_floor_seconds, timing.reconnect_ceiling_seconds)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._welcomed_at: float | None = None
        self._ever_welcomed = False
        self._asked_anew = False
        self._renewing: asyncio.Task[None] | None = None
        base = base_of(url)
        self._detour: Detour | None = None
        if poll_seconds is not None and base is not None:
            http = Http(base, tokens=self._tokens, client=client, tls=tls, timeout_seconds=timing.open_seconds)
            self._detour = Detour(lambda: Polling(peer, http, timing, poll_seconds, dice))

    # ── for the owner ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        """Whether the gateway has said welcome on a connection that is open as far as is known."""
        return self._welcomed_at is not None

    @property
    def polling(self) -> bool:
        """Whether polls bring what there is no connection for."""
        return self._detour is not None and self._detour.polling

    def start(self) -> None:
        """Begin to connect, in the background of the running loop."""
        self._task = asyncio.create_task(self._run(), name="ledgerwire link")

    def wake(self) -> None:
        """Ask the peer for outgoing frames now."""
        self._wake.set()
        if self._detour is not None:
            self._detour.wake()

    def replace_token(self, token: str) -> None:
        """The token of later connections."""
        self._tokens.replace(token)

    def file_descriptor(self) -> int | None:
        """The number of the open socket, for whoever has to let go of it after a fork."""
        return None if self._socket is None else self._socket.transport.get_extra_info("socket").fileno()

    async def stop(self) -> None:
        """Close the connection, within `close_seconds`, and end."""
        if self._task is None:
            return
        running = {task for task in (self._task, self._renewing) if task is not None}
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=self._timing.close_seconds)

    # ── from connection to connection ───────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        try:
            await self._reconnect_until_ended()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave anybody waiting
            _log.exception("the connection to %s ended by a fault of the client", self._shown_url)
            self._peer.ended(Unreachable(f"the client failed: {type(error).__name__}"))
        finally:
            if self._detour is not None:
                await self._detour.end()

    async def _reconnect_until_ended(self) -> None:
        loop = asyncio.get_running_loop()
        failures, down_since = 0, loop.time()
        while True:
            ending, lived_seconds = await self._one_connection()
            now = loop.time()
            refused = ending.error
            if lived_seconds is not None:
                self._peer.lost()
                down_since = now
                if lived_seconds >= self._timing.steady_seconds:
                    failures = 0
            elif self._detour is not None and ending.retry_after_seconds is None:  # else it is there, and busy
                refused = self._refused_on_both_ways(self._detour, ending)
                down_since = max(down_since, self._detour.heard_at or down_since)
            error = refused or self._given_up(now - down_since, ending.why)
            if error is not None:
                _log.error("no further connection to %s: %s", self._shown_url, error)
                self._peer.ended(error)
                return
            failures += 1
            delay, told = self._backoff.delay(failures, self._dice), ending.retry_after_seconds
            if told is not None:  # obeyed, but a gateway that says "at once" each time gets no tight loop
                delay = told if failures == 1 else max(told, delay)
            level = logging.WARNING if told is None else logging.INFO
            _log.log(level, "connection to %s: %s; again in %.1f s", self._shown_url, ending.why, delay)
            await asyncio.sleep(delay)

    @staticmethod
    def _refused_on_both_ways(detour: Detour, ending: Ending) -> LedgerwireError | None:
        useless = detour.missed()
        if isinstance(useless, NoGateway):
            return ending.error
        return useless or (None if ending.detour else ending.error)

    def _given_up(self, down_seconds: float, why: str) -> Unreachable | None:
        if self._give_up_seconds is None or down_seconds <= self._give_up_seconds:
            return None
        return Unreachable(f"no connection to {self._shown_url} for {self._give_up_seconds:g} s: {why}")

    async def _one_connection(self) -> tuple[Ending, float | None]:
        """How it ended, and for how long it lived after `welcome`; None: it was never welcomed."""
        try:
            socket = await self._open()
        except (InvalidHandshake, ConnectionClosed, OSError, EOFError) as error:
            return ending.of_opening(error, self._shown_url, ever_welcomed=self._ever_welcomed), None
        self._socket = socket
        orderly = True
        try:
            await self._converse(socket)
        except (Said, Stalled, Unfit, NoToken, wire.Malformed, ConnectionClosed, OSError) as error:
            orderly = isinstance(error, Said)
            since, self._welcomed_at = self._welcomed_at, None
            # A token that was not taken is asked for once more; another that is not taken either is the last.
            renewable = self._tokens.renewable and (since is not None or not self._asked_anew)
            self._asked_anew = renewable and ending.is_unauthenticated(error)
            lived_seconds = None if since is None else asyncio.get_running_loop().time() - since
            return ending.of_conversation(error, renewable=renewable), lived_seconds
        finally:
            self._socket = self._welcomed_at = None
            if not orderly:
                socket.transport.abort()
            await socket.close()

    async def _open(self) -> ClientConnection:
        opening = connect(
            self._url,
            compression=None,
            max_size=_FRAME_BYTES_MAX,
            ping_interval=None,  # the gateway's own ping, a message, is the sign of life
            open_timeout=self._timing.open_seconds,
            close_timeout=_CLOSE_SECONDS,
            logger=_quiet,
            ssl=self._tls if self._tls is not None or self._url.startswith("ws:") else True,
        )
        socket = await opening
        if opening.uri != self._url:  # a token goes only to the address that was asked for
            socket.transport.abort()
            raise InvalidHandshake("the address redirects elsewhere; use the address it redirects to")
        return socket

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────

    async def _converse(self, socket: ClientConnection) -> NoReturn:
        loop = asyncio.get_running_loop()
        await self._send(socket, wire.hello(self._client, await self._tokens.fresh()))
        async with asyncio.timeout(self._timing.open_seconds):
            welcome = await self._welcome(socket)
        _log.info("connected to %s as session %s", self._shown_url, welcome.session)
        if self._detour is not None:
            await self._detour.end()
        self._welcomed_at = loop.time()
        self._ever_welcomed = True
        self._peer.welcomed(welcome)
        timing = self._timing
        silence = welcome.ping_interval_ms / 1000 * timing.silence_factor + timing.silence_margin_seconds
        reader = asyncio.create_task(self._read(socket, silence), name="ledgerwire reader")
        writer = asyncio.create_task(self._write(socket), name="ledgerwire writer")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and isinstance(writer.exception(), ConnectionClosed):
                # What came before the close is still to be read: replies, and the bye that says why.
                await asyncio.wait({reader}, timeout=_CLOSE_SECONDS)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.wait({reader, writer})
        # Both may have failed on the same broken socket; the reader knows more: perhaps there was a bye.
        for half in (reader, writer):
            if not half.cancelled() and (error := half.exception()) is not None:
                raise error
        raise Unfit("both halves of the connection ended without a word")

    async def _welcome(self, socket: ClientConnection) -> wire.Welcome:
        while True:
            message = wire.decode(await socket.recv(decode=False))
            if message["type"] == "welcome":
                return wire.welcome(message)
            if message["type"] == "bye":
                raise Said(wire.bye(message))
            if message["type"] == "reply" and (rejection := wire.reply(message).rejection) is not None:
                sentence = f"hello was answered with {rejection}"
                raise wire.Malformed(sentence)

    async def _read(self, socket: ClientConnection, silence_seconds: float) -> None:
        count = 0
        while True:
            async with asyncio.timeout(silence_seconds):
                frame = await socket.recv(decode=False)
            message = wire.decode(frame)
            match message["type"]:
                case "ping":
                    await self._send(socket, wire.PONG)
                case "bye":
                    raise Said(wire.bye(message))
                case "notice" if message.get("kind") == "token_expiring":
                    self._renew()
                case _:
                    await self._peer.received(message)
            count += 1
            if count % _YIELD_EVERY == 0:  # frames that are there already are read without a pause for others
                await asyncio.sleep(0)

    def _renew(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_token(), name="ledgerwire token renewal")

    async def _renew_token(self) -> None:
        if not self._tokens.renewable:
            _log.warning("the token for %s expires, and there is no function that gives another", self._shown_url)
            return
        try:
            token = await self._tokens.fresh()
            if token is not None:
                await self._peer.renew(token)
        except (NoToken, LedgerwireError) as error:
            _log.warning("the token for %s was not renewed: %s", self._shown_url, error)

    async def _write(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while frames := self._peer.outgoing(loop.time(), _FRAMES_AT_ONCE):
                for frame in frames:
                    await self._send(socket, frame)
            try:
                async with asyncio.timeout(self._peer.next_due(loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                pass  # something is due

    async def _send(self, socket: ClientConnection, frame: bytes) -> None:
        async with asyncio.timeout(self._timing.send_seconds):
            await socket.send(frame, text=True)


def check_url(url: str) -> None:
    """Raises ValueError for what is no gateway's address, and for an address with a token in it."""
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError("the URL of a gateway begins with ws:// or wss:// and names a host")
    if parts.username or parts.password or "token=" in parts.query:
        raise ValueError("a URL ends up in logs: pass the token as `token`, not in the URL")
