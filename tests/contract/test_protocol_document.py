"""docs/protocol.md is true: its conversations are replayed against a running server, its tables are the code's."""

from __future__ import annotations

import gzip
import re
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.http import intake
from gateway.protocol import ndjson
from gateway.protocol.errors import BYES, ERRORS
from gateway.protocol.messages import TYPES
from ledger import epoch
from tests.support.gateway import ROOT, Peer, in_process
from tests.support.limits import generous
from tests.support.postgres import address_of, temporary_folder, through
from tests.support.proxy import Link, Proxy
from tests.support.tokens import SECRET, auth_file, token

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
CONVERSATIONS = dict(re.findall(r"```conversation (\S+)\n(.*?)```", DOCUMENT, re.DOTALL))
REQUESTS = dict(re.findall(r"```http (\S+)\n(.*?)```", DOCUMENT, re.DOTALL))
BREAKS_OFF = b"(the gzip breaks off)\n"

BY_KIND = {
    "session",
    "epoch",
    "server_time",
    "at",
    "created_at",
    "updated_at",
    "beat_at",
    "beat_age_ms",
    "retry_after_ms",
    "expires_in_ms",
}
SERVER_TYPES = {
    "welcome", "reply", "subscribed", "snapshot", "transition", "liveness", "cancel", "notice", "ping", "pong", "bye",
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_conversation_goes_as_written(name: str, database: str) -> None:
    """Every `>` line is sent as it stands, every `<` line is what comes back next on that connection."""
    lines = CONVERSATIONS[name].strip().splitlines()
    interval = re.search(r'"ping_interval_ms":(\d+)', CONVERSATIONS[name])
    seconds = int(interval.group(1)) / 1000 if interval else 25
    received = 0
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(address_of(database)))
        dsn = through(database, proxy.port)
        settings: dict[str, Any] = {"ping_interval_seconds": seconds}
        if "$token" in CONVERSATIONS[name]:
            settings["auth_file"] = auth_file(stack.enter_context(temporary_folder()))
        gateway = await stack.enter_async_context(in_process(dsn, **settings))
        peers: dict[str, Peer] = {}
        shown = ""
        for line in lines:
            if line.startswith("database: "):
                proxy.set({"away": Link.RESET, "back": Link.PASS}[line.removeprefix("database: ")])
                continue
            if line == "epoch: new":
                await epoch.begin(generous(), database)
                continue
            who, text = re.fullmatch(r"(\w+)[<>] (.*)", line).groups()  # type: ignore[union-attr] # or the document is wrong
            if who not in peers:
                peers[who] = await stack.enter_async_context(gateway.client(hello=False))
            if line[len(who)] == ">":
                await peers[who].send_text(with_tokens(text.replace("$epoch", shown)))
                continue
            got = await peers[who].receive(pings=True)
            received += 1
            if got["type"] == "welcome":
                shown = got["epoch"]
            assert comparable(got) == comparable(orjson.loads(text)), f"{name}: {line}\ngot {got}"
    assert received >= 1


@pytest.mark.parametrize("name", REQUESTS)
async def test_request_is_answered_as_written(name: str, database: str) -> None:
    """The `>` lines are sent as one request, the `<` lines are its whole answer: status, headers, and the body."""
    asked, told = (
        [line[2:] for line in REQUESTS[name].splitlines() if line[:1] == direction] for direction in (">", "<")
    )
    method, path = asked[0].split(" ")
    begin = asked.index("")
    sent = dict(line.split(": ") for line in asked[1:begin])
    body = "".join(line + "\n" for line in asked[begin + 1 :]).encode()
    if sent.get("Content-Encoding") == "gzip":
        whole = gzip.compress(body.removesuffix(BREAKS_OFF))
        body = whole[:-1] if body.endswith(BREAKS_OFF) else whole
    async with (
        in_process(database) as gateway,
        aiohttp.ClientSession() as session,
        session.request(method, gateway.http + path, data=body, headers=sent) as answer,
    ):
        assert answer.status == int(told[0])
        end = told.index("")
        for header, value in (line.split(": ") for line in told[1:end]):
            assert answer.headers[header] == value
        got = (await answer.read()).decode().splitlines()
    assert [comparable(orjson.loads(line)) for line in got] == [
        comparable(orjson.loads(line)) for line in told[end + 1 :]
    ]
    assert got


def with_tokens(text: str) -> str:
    """The text with `$token-60s` replaced by a token that lasts so long: of alice, a user, at acme."""
    return re.sub(r"\$token-(\d+)s", lambda found: token(SECRET, "HS256", iss="acme", lasts=int(found[1])), text)


def comparable(value: Any, name: str = "") -> Any:
    """The value with the members that differ from run to run replaced by their kind."""
    if name in BY_KIND:
        return type(value).__name__
    if isinstance(value, dict):
        return {key: comparable(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    return value


def test_every_message_has_a_literal_frame() -> None:
    """No message of the protocol is missing among the frames that are replayed, and no kind of notice."""
    sent, got, notices = set[str](), set[str](), set[str]()
    for line in "\n".join(CONVERSATIONS.values()).splitlines():
        (sent if re.match(r"\w+>", line) else got).update(re.findall(r'"type":"(\w+)"', line))
        notices.update(re.findall(r'"type":"notice","kind":"(\w+)"', line))
    assert sent == TYPES | {"dance"}
    assert got == SERVER_TYPES
    assert notices == {"degraded", "restored", "jumped", "token_expiring"}


def test_bounds_of_a_batch_are_those_of_the_code() -> None:
    """The numbers that a sender needs to know."""
    section = " ".join(DOCUMENT.partition("### Many reports in one request")[2].split())
    for words in (
        f"at most {intake.LINES:,} lines and {intake.REQUEST_BYTES >> 20} MiB",
        f"inflate to {ndjson.RATIO} times its size, and {ndjson.FREE_BYTES >> 20} MiB more",
        f"no whole line comes for {intake.LINE_SECONDS:g} s or no end for {intake.REQUEST_SECONDS:g} s",
        f"keeps {intake.UNTOLD_BYTES >> 20} MiB of outcomes",
        f"after {intake.TAKE_SECONDS:g} s in which nothing is taken",
    ):
        assert words in section


def test_tables_of_errors_are_those_of_the_code() -> None:
    """Each error code and close code is in the document with its HTTP status and whether to retry, and no other is."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+|–) \| (yes|no) \|", DOCUMENT, re.MULTILINE)
    documented = {code: (status, retry) for code, status, retry in rows}
    for code, error in ERRORS.items():
        assert code in documented, code
        status, retry = documented.pop(code)
        assert status in {"–", str(error.http)}, code
        assert (retry == "yes") is error.retryable, code
    assert not documented
    closing = re.findall(r"^\| (4\d\d\d) \| `(\w+)` \| (yes|no) \|", DOCUMENT, re.MULTILINE)
    assert closing == [(str(bye.code), bye.reason, "yes" if bye.retry else "no") for bye in BYES]
