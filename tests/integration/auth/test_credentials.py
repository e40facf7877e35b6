"""API keys from the command line to the door and out again; tickets that are good once; the audit log."""

from __future__ import annotations

import asyncio
import os
import random
import sys

import aiohttp
import asyncpg
import pytest

from gateway.__main__ import main
from gateway.auth.tickets import TICKETS
from tests.support.gateway import ROOT, Gateway, GatewayProcess
from tests.support.http import Http
from tests.support.postgres import temporary_folder
from tests.support.tokens import SECRET, auth_file, part, token
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER = {"Authorization": f"Bearer {token(SECRET, 'HS256', iss='acme', ledgerwire=['*:all'])}"}


async def key(dsn: str, *arguments: str, status: int = 0) -> tuple[list[str], str]:
    """Run `ledgerwire key …`; the lines that it prints, and what it logs."""
    command = [sys.executable, "-m", "gateway", "key", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode().splitlines(), err.decode()


async def test_a_key_lets_its_owner_in_until_it_is_revoked(dsn: str, gateway: Gateway, http: Http) -> None:
    """Shown once, kept as a digest, cut on open connections too; wrong ones are not let in."""
    (text,), log = await key(
        dsn, "create", "--tenant", "acme", "--subject", "importer", "--grant", "report:kind=import"
    )
    _, id_, secret = text.split("_", 2)
    assert secret not in log
    assert '"action":"key_create"' in log
    assert len(secret) >= 43
    rows = await _rows(dsn, "select k::text as k from ledger.api_key k")
    assert id_ in rows[0]
    assert secret not in "".join(rows)
    lines, _ = await key(dsn, "list", "--tenant", "acme")
    assert lines[0].split("\t")[:3] == [f"lwk_{id_}", "acme", "importer"]
    assert lines[0].split("\t")[4:] == ["in force", "report:kind=import"]
    assert secret not in "".join(lines)

    headers = {"Authorization": f"Bearer {text}"}
    made = await http("POST /v1/tasks/of-a-key/transitions", {"kind": "import"}, **headers)
    assert made.status == 200
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), f"lwk_{'0' * 16}_{secret}", text[:-1], f"lwk_{id_}_"):
        (await http("GET /v1/tasks", Authorization=f"Bearer {wrong}")).is_problem("unauthenticated")

    async with gateway.client(additional_headers=headers) as peer:
        assert (await peer.ask(type="report", task_id="of-a-key", progress=1))["ok"] is True
        said, log = await key(dsn, "revoke", text)
        assert said == [f"lwk_{id_} is revoked; whoever uses it is out within a minute"]
        assert '"action":"key_revoke"' in log
        await peer.expect("bye", code=4501, reason="unauthenticated")
    (await http("POST /v1/tasks/of-a-key/transitions", {}, **headers)).is_problem("unauthenticated")
    assert "revoked" in (await key(dsn, "list"))[0][0]
    assert "There is no key lwk_0000" in (await key(dsn, "revoke", "lwk_0000", status=78))[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tenant", "acme", "--grant", "fly:all"), "A grant begins with verbs"),
        (("--tenant", "acme", "--days", "0"), "must be 1 to"),
        (("--tenant", "a b"), "are names"),
    ],
)
async def test_a_slip_of_the_pen_is_named(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 78, as every wrong setting."""
    assert main(["key", "create", "--subject", "s", *arguments]) == 78
    assert sentence in capsys.readouterr().err


async def test_tampered_tokens_come_in_nowhere(http: Http, seed: int) -> None:
    """By header and by hello, all get the same words; the one that they were made of comes in."""
    good = token(SECRET, "HS256", iss="acme")
    wrong = [good[:i] + ("A" if good[i] != "A" else "B") + good[i + 1 :] for i in range(0, len(good), 9)]
    head, body, _ = good.split(".")
    wrong += [f"{part({'alg': 'none', 'kid': 'k1'})}.{body}.", f"{head}.{body}.", f"{good}A", f"{head}.{body}"]
    wrong += [token(SECRET, "HS256", iss=iss) for iss in ("home", "gamma")]
    wrong += [token(SECRET, "HS256", iss="acme", aud="x"), token(SECRET, "HS256", iss="acme", lasts=-1)]
    wrong += [token(SECRET, "HS256", iss="acme", kid="k2"), token(SECRET, "HS256", iss="acme", ledgerwire=["fly:all"])]
    random.Random(seed).shuffle(wrong)
    bodies = set()
    for text in wrong:
        answer = await http("GET /v1/tasks", Authorization=f"Bearer {text}")
        answer.is_problem("unauthenticated")
        bodies.add(answer.text)
    assert len(bodies) == 1
    for text in wrong[:10]:
        async with http.gateway.client(hello=False) as peer:
            await peer.send(type="hello", v=1, token=text)
            await peer.expect("bye", code=4501, reason="unauthenticated")
    assert (await http("GET /v1/tasks", Authorization=f"Bearer {good}")).status == 200
    assert len(wrong) >= 30


async def test_a_secret_that_is_too_short_or_open_stops_the_start(dsn: str) -> None:
    """Status 78 and the cure, before anything listens."""
    with temporary_folder() as folder:
        file = auth_file(folder)
        for content, mode, cure in ((SECRET[:31], 0o600, "at least 32 bytes"), (SECRET, 0o644, "run: chmod 600")):
            (folder / "secret").write_bytes(content)
            (folder / "secret").chmod(mode)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serve", "--host", "0.0.0.0", "--auth-file", str(file),
                cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn}, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            async with asyncio.timeout(WAIT_SECONDS):
                _, err = await process.communicate()
            assert process.returncode == 78
            assert cure in err.decode()
            assert SECRET[:31] not in err


async def _rows(dsn: str, sql: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_a_ticket_is_good_once_on_all_processes(dsn: str, http: Http) -> None:
    """Two processes of one database get the same ticket at the same moment: one of them takes it, each time."""
    await http("POST /v1/tasks/ticketed/transitions", {"status": "completed"}, **SERVER)
    path = "GET /v1/tasks/ticketed/events?ticket="
    with temporary_folder() as folder:
        file = auth_file(folder)
        async with GatewayProcess(dsn, "--auth-file", str(file)) as other, aiohttp.ClientSession() as session:
            there = Http(session, other)
            for _ in range(10):
                made = await http("POST /v1/tickets", **SERVER)
                assert (made.status, made.json["expires_in"], made.headers["cache-control"]) == (201, 30, "no-store")
                answers = await asyncio.gather(
                    *(each(path + made.json["ticket"]) for each in (http, there, http, there))
                )
                assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]
                (good,) = [answer for answer in answers if answer.status == 200]
                assert "event: snapshot" in good.text
            assert made.json["ticket"] not in str(list(other.log))
    assert await _rows(dsn, "select digest from ledger.ticket") == []


async def test_a_ticket_opens_nothing_but_events(http: Http) -> None:
    """Nor does a token in a URL open anything; and it is no more than its principal."""
    await http("POST /v1/tasks/of-bob/transitions", {"owner": "bob", "status": "completed"}, **SERVER)
    alice = {"Authorization": f"Bearer {token(SECRET, 'HS256', iss='acme')}"}
    ticket = (await http("POST /v1/tickets", **alice)).json["ticket"]
    for request in (
        f"GET /v1/tasks/of-bob?ticket={ticket}",
        f"GET /v1/tasks?ticket={ticket}",
        f"POST /v1/tasks/of-bob/events?ticket={ticket}",
        f"GET /v1/tasks/of-bob/events?ticket={ticket[:-1]}",
        f"GET /v1/tasks/of-bob/events?token={alice['Authorization'][7:]}",
    ):
        (await http(request)).is_problem("unauthenticated")
    (await http(f"GET /v1/tasks/of-bob/events?ticket={ticket}")).is_problem("unknown_task")
    nobody = token(SECRET, "HS256", iss="acme", ledgerwire=["list:own"])
    (await http("POST /v1/tickets", Authorization=f"Bearer {nobody}")).is_problem("forbidden")


async def test_a_ticket_does_not_outlive_its_token(dsn: str, http: Http) -> None:
    """Whose token has ended since is let in no more than by the token."""
    await http("POST /v1/tasks/outlived/transitions", {"status": "completed"}, **SERVER)
    ticket = (await http("POST /v1/tickets", **SERVER)).json["ticket"]
    ended = "update ledger.ticket set token_ends = now() - interval '1 s' where token_ends > now() returning tenant"
    assert await _rows(dsn, ended) == ["acme"]
    (await http(f"GET /v1/tasks/outlived/events?ticket={ticket}")).is_problem("unauthenticated")


async def test_a_principal_has_so_many_tickets(http: Http) -> None:
    """A bound on rows; another principal is not kept from its own."""
    greedy, other = (
        {"Authorization": f"Bearer {token(SECRET, 'HS256', iss='beta', sub=sub)}"} for sub in ("greedy", "other")
    )
    for _ in range(TICKETS):
        assert (await http("POST /v1/tickets", **greedy)).status == 201
    (await http("POST /v1/tickets", **greedy)).is_problem("busy")
    assert (await http("POST /v1/tickets", **other)).status == 201


async def test_creates_and_cancels_are_in_the_audit_log(dsn: str) -> None:
    """Who, which task, and what came of it; over WebSocket and HTTP; no payload, no token, and no report."""
    with temporary_folder() as folder:
        file = auth_file(folder)
        async with GatewayProcess(dsn, "--auth-file", str(file)) as gateway, aiohttp.ClientSession() as session:
            http = Http(session, gateway)
            await http("POST /v1/tasks", {"task_id": "audited", "data": "payload-of-it"}, **SERVER)
            await http("POST /v1/tasks", {"task_id": "audited", "data": "payload-of-it"}, **SERVER)
            eve = token(SECRET, "HS256", iss="acme", sub="eve", jti="t-7")
            async with gateway.client(additional_headers={"Authorization": f"Bearer {eve}"}) as peer:
                await peer.ask(type="cancel", task_id="audited", reason="payload-of-it")
            async with gateway.client(additional_headers=SERVER) as peer:
                await peer.ask(type="cancel", task_id="audited", reason="payload-of-it")
                await peer.ask(type="report", task_id="audited", progress=1)
            await gateway.stop()
            lines = [line for line in gateway.log if line["event"] == "audit"]
    told = [(line["action"], line["outcome"], line["subject"], line["task_id"], line["seq"]) for line in lines]
    assert told == [
        ("create", "done", "alice", "audited", 1),
        ("create", "repeat", "alice", "audited", 1),
        ("cancel", "unknown_task", "eve", "audited", None),
        ("cancel", "done", "alice", "audited", 2),
    ]
    assert (lines[2]["tenant"], lines[2]["issuer"], lines[2]["token_id"]) == ("acme", "acme", "t-7")
    everything = str(list(gateway.log))
    for secret in ("payload-of-it", eve, SERVER["Authorization"][7:], SECRET.decode()):
        assert secret not in everything
