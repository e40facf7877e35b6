"""Hints by NATS: a subject per task, so that each node hears of the tasks that are watched on it, and of no others.

Core NATS, no JetStream: the ledger keeps, the bus only tells. The client library makes a connection; making it again
is the carrier's.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, SlowConsumerError

from gateway.bus import hints
from gateway.bus.carrier import CLOSE_SECONDS, ECHO_SECONDS, PROBE_SECONDS, Broken, Carrier
from gateway.bus.unsent import Unsent
from ledger.model import Key

log = structlog.get_logger(__name__)

SUBJECTS: Final = "ledgerwire.hint"
FRAME_BYTES: Final = 4_096
"""Larger events are read from the ledger: they are few, and would crowd out the others' hints."""
CONNECT_SECONDS: Final = 2.0
"""For one server: connect, TLS and login. The next attempt is at the next one."""
GRACE_SECONDS: Final = 10.0
"""A client that reconnects, or a page that is loaded again, finds the subscription still there."""
HINTS_AT_ONCE: Final = 500
MOST_UNSENT_BYTES: Final = 1_048_576
"""In the client, of hints that a server does not take. Beyond it they wait with us, the newer in place of the older."""
STALLED_SECONDS: Final = 0.05


class NatsBus(Carrier):
    """The bus of many nodes."""

    wants_frames = True
    advice: ClassVar = {
        "login_refused": "The NATS server refuses the user, password or token in the URL.",
        "no_tls": "The URL says tls://, but the server offers no TLS; nothing was said to it.",
    }

    def __init__(
        self, servers: Sequence[str], *, grace_seconds: float = GRACE_SECONDS, probe_seconds: float = PROBE_SECONDS
    ) -> None:
        """`servers` are URLs, `nats://` or `tls://`, with a user and password or a token where one is needed."""
        super().__init__("nats", secrets.token_hex(6), max_frame_bytes_each=FRAME_BYTES, probe_seconds=probe_seconds)
        self._servers = random.sample(servers, len(servers))  # so that nodes spread over them
        self._grace_seconds = grace_seconds
        self._client: _Client | None = None
        self._wanted: set[Key] = set()
        self._new: dict[Key, None] = {}  # wanted, and not subscribed yet
        self._left: OrderedDict[Key, float] = OrderedDict()  # not wanted any more, and since when
        self._subscribed: dict[Key, Subscription] = {}

    def interest(self, key: Key) -> None:
        """Subscribe to the task's subject, if there still is none."""
        self._wanted.add(key)
        self._left.pop(key, None)
        if key not in self._subscribed:
            self._new[key] = None
            self._wake.set()

    def no_interest(self, key: Key) -> None:
        """Unsubscribe after the grace."""
        self._wanted.discard(key)
        self._new.pop(key, None)
        if key in self._subscribed:
            self._left[key] = asyncio.get_running_loop().time()
            self._wake.set()

    async def _connect(self) -> None:
        self._servers.append(self._servers.pop(0))
        client = self._client = _Client(self._servers[-1], self._take, self._breaks, self._slow)
        with _broken(client):
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                await client.open()
            self._subscribed.clear()
            self._left.clear()
            self._new = dict.fromkeys(self._wanted)
            await self._subscribe()

    async def _echo(self) -> None:
        client = self._client
        assert client is not None  # noqa: S101 - between _connect and _disconnect
        with _broken(client):
            await client.barrier()

    async def _follow(self) -> float | None:
        if self._new:
            keys = list(self._new)
            with _broken(self._client):
                await self._subscribe()
            await self._echo()
            self._on_gap(keys)
        now = asyncio.get_running_loop().time()
        while self._left:
            key, since = next(iter(self._left.items()))
            if since + self._grace_seconds > now:
                return since + self._grace_seconds - now
            del self._left[key]
            with _broken(self._client):
                await self._subscribed.pop(key).unsubscribe()
        return None

    async def _subscribe(self) -> None:
        client = self._client
        assert client is not None  # noqa: S101 - between _connect and _disconnect
        new, self._new = self._new, {}
        for key in new:
            self._subscribed[key] = await client.subscribe(f"{SUBJECTS}.{key}")
            if key not in self._wanted:  # since just now
                self._left[key] = asyncio.get_running_loop().time()

    async def _send(self, unsent: Unsent) -> int:
        client = self._client
        assert client is not None  # noqa: S101 - between _connect and _disconnect
        if client.pending_data_size > MOST_UNSENT_BYTES:
            await asyncio.sleep(STALLED_SECONDS)
            return 0
        taken = unsent.take(HINTS_AT_ONCE)
        with _broken(client):
            begin = hints.beginning(self.node, taken[0].epoch)
            await client.publish_all((hint.key, begin + hints.encoded(hint) + hints.END) for hint in taken)
        await asyncio.sleep(0)  # publishing waits for nothing
        return len(taken)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.end()

    def _slow(self) -> None:
        self._on_gap(None)


class _Client(Client):
    """One connection to one server, which is not made again, and on which no call waits for the server but `barrier`.

    Messages are taken as they are read: there is no queue or task per subscription, and a node that is too slow for its
    messages is told so by the server, which cuts it off.
    """

    def __init__(
        self, url: str, take: Callable[[bytes], None], on_end: Callable[[str], None], on_slow: Callable[[], None]
    ) -> None:
        super().__init__()
        self._url = url
        self._take = take
        self._on_end = on_end
        self._on_slow = on_slow
        self.failure: BaseException | None = None

    async def open(self) -> None:
        """Connect and log in."""
        await self.connect(
            [self._url],
            name="ledgerwire",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_SECONDS,  # type: ignore[arg-type] # any number of seconds
            ping_interval=3_600,  # the carrier asks more often
            no_echo=True,
            # Without bounds of its own, which make callers wait for a server that takes nothing. See `_send`.
            flusher_queue_size=0,
            pending_size=0,
            error_cb=self._failed,
            closed_cb=self._closed,
            lame_duck_mode_cb=self._leaving,
        )

    async def publish_all(self, messages: Iterable[tuple[Key, bytes]]) -> None:
        """Publish each message on its task's subject, all in one piece: one by one that took half of our time."""
        if self.is_closed:
            raise Broken("connection_lost")
        commands = (f"PUB {SUBJECTS}.{key} {len(text)}\r\n".encode() + text + b"\r\n" for key, text in messages)
        await self._send_command(b"".join(commands))
        await self._flush_pending()

    async def barrier(self) -> None:
        """Return when the server has done all that it was told before."""
        # The library's ping overtakes commands that wait to be flushed; the second one comes after them.
        for _ in range(2):
            await self.flush(timeout=ECHO_SECONDS)  # type: ignore[arg-type] # any number of seconds
        if self._reading_task is None or self._reading_task.done():
            raise Broken("connection_lost")  # then `flush` does not ask, and says nothing

    async def end(self) -> None:
        """Cut the connection, and have the library tidy up."""
        # First the socket: closing in order would wait for a server that takes nothing, and stumbles over late answers.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        try:
            async with asyncio.timeout(CLOSE_SECONDS / 2):
                await self.close()
        except Exception as error:  # noqa: BLE001 - the socket is closed, whatever it says
            log.debug("bus_close", reason=type(error).__name__)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg | None:
        self._take(data)
        return None  # nothing is left to be queued

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._url.startswith("tls://") and not info.get("tls_required"):
            raise Broken("no_tls")  # else the library would log in without it
        await super()._process_info(info, initial_connection)

    async def _failed(self, error: Exception) -> None:
        self.failure = error
        if isinstance(error, SlowConsumerError):
            self._on_slow()

    async def _closed(self) -> None:
        self._on_end("connection_lost")

    async def _leaving(self) -> None:
        self._on_end("server_stops")


@contextmanager
def _broken(client: _Client | None) -> Iterator[None]:
    try:
        yield
    except (Error, OSError) as error:  # TimeoutError is an OSError
        raise Broken(_reason(error, client.failure if client else None)) from None  # a message may quote the URL


def _reason(error: BaseException, cause: BaseException | None) -> str:
    said = f"{error} {cause or ''}".lower()
    if "authorization" in said or "authentication" in said:
        return "login_refused"
    if isinstance(error, TimeoutError):
        return "no_echo"
    if isinstance(cause, ConnectionRefusedError):
        return "connection_refused"
    return "connection_lost"
