"""How load.c speaks with each kind of server. Pure: texts, and the arguments that are made of them.

In every text `{c}` is the channel, `{n}` the number of a message in it, `{t}` the time. What is delivered is the same
everywhere: a `transition` frame as Ledgerwire sends it, of about 230 bytes, by itself or inside the peer's envelope.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from scripts.bench.shapes import Shape

STAGE: Final = "encoding chunk 17 of 40"
PAD: Final = "0123456789abcdef"
TASK: Final = "bench-{c}"
TRANSITION: Final = (
    f'{{"type":"transition","task_id":"{TASK}","seq":{{n}},"status":"running","progress":42,"stage":"{STAGE}",'
    f'"message":null,"attempt":1,"data":{{"ts":{{t}},"pad":"{PAD}"}},"at":"2026-01-01T00:00:00.000000Z"}}'
)


class Dialect(Struct, frozen=True, kw_only=True):
    """What a subscriber and a publisher say. `ping` is the beginning of a keep-alive frame, `pong` the answer."""

    path: str
    says: tuple[str, ...] = ()
    ready: str = ""
    publish: str
    """`ws:PATH` or `http:PATH`."""
    publisher_says: tuple[str, ...] = ()
    publisher_ready: str = ""
    message: str
    grouped: int = 1
    ping: str = ""
    pong: str = ""
    refusal: str = '"ok":false'

    def arguments(self, shape: Shape, *, seconds: float, warmup: float, patience: float) -> list[str]:
        """What load.c is called with, but for the port."""
        words = ["-n", str(shape.subscribers), "-c", str(shape.channels), "-u", self.path, "-x", self.refusal]
        words += ["-d", f"{patience:g}"]
        if self.ping:
            words += ["-k", f"{self.ping}={self.pong}"]
        if shape.kind != "accept":
            for text in self.says:
                words += ["-m", text]
            if self.ready:
                words += ["-a", self.ready]
        if shape.kind != "delivery":
            return [*words, "-i"]
        words += ["-P", self.publish, "-M", self.message, "-g", str(self.grouped)]
        for text in self.publisher_says:
            words += ["-U", text]
        if self.publisher_ready:
            words += ["-A", self.publisher_ready]
        words += ["-w", str(shape.window)] if shape.window else ["-r", str(shape.rate)]
        return [*words, "-t", f"{seconds:g}", "-T", f"{warmup:g}"]


BARE: Final = Dialect(path="/s/{c}", publish="ws:/p", message="{c} " + TRANSITION)
"""For the servers that were written for this bench: no envelope at all."""

NCHAN: Final = Dialect(path="/s/{c}", publish="http:/p/{c}", message=TRANSITION)

_HELLO: Final = '{"type":"hello","v":1}'
DURABLE: Final = Dialect(
    path="/v1/ws",
    says=(_HELLO, f'{{"type":"subscribe","id":1,"tasks":[{{"task_id":"{TASK}"}}],"wait_ms":600000}}'),
    ready='"type":"subscribed"',
    publish="ws:/v1/ws",
    publisher_says=(_HELLO,),
    publisher_ready='"type":"welcome"',
    message=f'{{"type":"report","task_id":"{TASK}","attempt":1,"n":{{n}},"progress":42,"stage":"{STAGE}",'
    f'"data":{{"ts":{{t}},"pad":"{PAD}"}}}}',
    ping='{"type":"ping"}',
    pong='{"type":"pong"}',
)
"""The publisher is a worker: one report per frame, numbered in its attempt, answered only when refused."""

HUB_ONLY: Final = Dialect(
    path=DURABLE.path,
    says=DURABLE.says,
    ready=DURABLE.ready,
    publish="ws:/bench/commit",
    message='["{c}",{t}]',
    grouped=500,
    ping=DURABLE.ping,
    pong=DURABLE.pong,
)
"""The publisher tells what a group commit has committed: see `scripts.bench.hub_only`."""

SOCKET_IO: Final = Dialect(
    path="/socket.io/?EIO=4&transport=websocket&c={c}",
    says=("40",),
    ready='42["ready"]',
    publish="ws:/socket.io/?EIO=4&transport=websocket&c=p",
    publisher_says=("40",),
    publisher_ready='42["ready"]',
    message=f'42["p","{{c}}",{TRANSITION}]',
    ping="2",
    pong="3",
    refusal="44{",
)

CENTRIFUGO: Final = Dialect(
    path="/connection/websocket",
    says=('{"id":1,"connect":{}}', f'{{"id":2,"subscribe":{{"channel":"{TASK}"}}}}'),
    ready='"id":2,"subscribe"',
    publish="ws:/connection/websocket",
    publisher_says=('{"id":1,"connect":{}}',),
    publisher_ready='"id":1,"connect"',
    message=f'{{"id":3,"publish":{{"channel":"{TASK}","data":{TRANSITION}}}}}',
    ping="{}",
    pong="{}",
    refusal='"error":{',
)
