"""TLS of the gateway's own, the headers of its answers, and proxies in front of it."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from gateway.tls import Certificate, trusting
from ledger.errors import SettingsError
from tests.support.gateway import ROOT, GatewayProcess, Peer, in_process
from tests.support.postgres import temporary_folder
from tests.support.waiting import WAIT_SECONDS, eventually


def issue(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for this name, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "cert.pem", folder / "key.pem"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as made:
        yield made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as running:
        yield running


def shown(port: int, **options: object) -> tuple[str, str]:
    """The name on the certificate that a server shows, and the version of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as wrapped:
        certificate = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
        whose = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return str(whose), str(wrapped.version())


async def test_everything_goes_over_tls_and_a_renewed_certificate_is_shown(
    database: str, folder: Path, http: aiohttp.ClientSession
) -> None:
    """Messages large and small, both ways; who is connected stays when SIGHUP brings another certificate."""
    certificate, key = issue(folder, "one.example")
    arguments = ("--tls-cert", str(certificate), "--tls-key", str(key))
    async with GatewayProcess(database, *arguments) as gateway:
        assert any(line.get("transport") == "tls" for line in gateway.log)
        trust = trusting(certificate)
        url = f"https://127.0.0.1:{gateway.port}"
        async with connect(f"wss://127.0.0.1:{gateway.port}/v1/ws", ssl=trust, compression=None) as socket:
            peer = Peer(socket)
            await peer.send(type="hello", v=1)
            await peer.expect("welcome")
            await peer.send(type="subscribe", id=1, tasks=[{"task_id": "t"}], wait_ms=60_000)
            await peer.expect("reply")
            await peer.expect("subscribed")
            reports = [
                {"type": "report", "task_id": "t", "progress": n % 100, "data": "x" * 15_000} for n in range(400)
            ]
            for report in reports:
                await peer.send(**report)
            for n in range(400):
                assert (await peer.receive())["seq"] == n + 1
            assert shown(gateway.port) == ("one.example", "TLSv1.3")
            assert shown(gateway.port, maximum_version=ssl.TLSVersion.TLSv1_2) == ("one.example", "TLSv1.2")
            assert Certificate(certificate, key).context.minimum_version is ssl.TLSVersion.TLSv1_2
            async with http.get(f"{url}/v1/tasks/t", ssl=trust, headers={"Origin": url}) as answer:
                assert answer.status == 200, "its own origin is an https one"
            asked = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "healthcheck", cwd=ROOT, stdout=subprocess.DEVNULL,
                env=os.environ | {"LEDGERWIRE_PORT": str(gateway.port), "LEDGERWIRE_TLS_CERT": str(certificate)},
            )  # fmt: skip
            assert await asked.wait() == 0
            issue(folder, "two.example")
            gateway.signal(signal.SIGHUP)
            await eventually(lambda: any(line["event"] == "certificate_renewed" for line in gateway.log))
            assert shown(gateway.port)[0] == "two.example"
            key.write_text("no key")
            gateway.signal(signal.SIGHUP)
            await eventually(lambda: any(line["event"] == "certificate_not_renewed" for line in gateway.log))
            assert shown(gateway.port)[0] == "two.example"
            assert (await peer.ask(id=9, type="unsubscribe", task_ids=["t"]))["ok"] is True
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(WAIT_SECONDS):
            assert not (await reader.read()).startswith(b"HTTP/")
        writer.close()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("open key", "chmod 600"),
        ("no key", "cannot be read"),
        ("no certificate", "cannot be read"),
        ("not pem", "no certificate and its key"),
        ("another key", "no certificate and its key"),
        ("passphrase", "without, in a file that others cannot read"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused_with_the_cure(folder: Path, wrong: str, word: str) -> None:
    """Before anything is started; the sentence names the file, and nothing that is in it."""
    certificate, key = issue(folder, "one.example")
    match wrong:
        case "open key":
            key.chmod(0o604)
        case "no key":
            key.unlink()
        case "no certificate":
            certificate.unlink()
        case "not pem":
            certificate.write_text("-----BEGIN CERTIFICATE-----\nx\n")
        case "another key":
            kept = certificate.read_bytes()
            issue(folder, "two.example")
            certificate.write_bytes(kept)
        case "passphrase":
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            locked = serialization.BestAvailableEncryption(b"words")
            form = serialization.PrivateFormat.PKCS8
            key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, locked))
    with pytest.raises(SettingsError) as error:
        Certificate(certificate, key)
    assert word in error.value.sentence


REFUSED = [
    (["--host", "0.0.0.0"], "--token-file"),
    (["--host", "::"], "--token-file"),
    (["--allow-origin", "*"], "List each origin"),
    (["--allow-origin", "null"], "List each origin"),
    (["--trusted-proxy", "0.0.0.0/0"], "Name the proxies"),
    (["--tls-cert", "cert.pem"], "--tls-key"),
    (["--tls-cert", "$cert", "--tls-key", "$open"], "chmod 600"),
    (["--token-file", "$open"], "chmod 600"),
]
STARTS = """
import json, sys
from gateway.__main__ import main
for arguments in json.loads(sys.argv[1]):
    print(main(["serve", *arguments]), file=sys.stderr)
"""


def test_it_does_not_start_where_that_would_let_anybody_in(folder: Path) -> None:
    """Exit 78 before a database is looked for, and what to do."""
    certificate, key = issue(folder, "one.example")
    key.chmod(0o644)
    named = {"$cert": str(certificate), "$open": str(key)}
    given = [[named.get(word, word) for word in arguments] for arguments, _ in REFUSED]
    ended = subprocess.run(
        [sys.executable, "-c", STARTS, json.dumps(given)], cwd=ROOT, capture_output=True, check=True, text=True,
        timeout=WAIT_SECONDS, env=os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
    )  # fmt: skip
    lines = ended.stderr.splitlines()
    assert lines[1::2] == ["78"] * len(REFUSED), lines
    for said, (_, cure) in zip(lines[::2], REFUSED, strict=True):
        assert said.startswith("ledgerwire: ")
        assert cure in said


async def test_every_answer_says_that_it_may_do_nothing(database: str, http: aiohttp.ClientSession) -> None:
    """Whatever it is an answer to, and no answer sets a cookie."""
    async with in_process(database) as gateway:
        seen = set()
        for method, path in (
            ("GET", "/"), ("GET", "/metrics"), ("GET", "/health/ready"), ("GET", "/v1/tasks"), ("GET", "/nowhere"),
            ("DELETE", "/v1/tasks"), ("POST", "/v1/tasks"), ("GET", "/v1/tasks/t/events"),
        ):  # fmt: skip
            async with http.request(method, gateway.http + path) as answer:
                seen.add(answer.status)
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Server"] == "ledgerwire"
                assert "Set-Cookie" not in answer.headers
        assert seen == {200, 400, 404, 405}


async def test_a_browser_that_says_no_origin_is_still_a_browser(database: str, http: aiohttp.ClientSession) -> None:
    """An image, a script or a link on another site cannot ask for anything of the API; the site's own page can."""
    async with in_process(database) as gateway:
        for site, path, status in (
            ("cross-site", "/v1/tasks", 403), ("same-site", "/v1/tasks", 403), ("same-origin", "/v1/tasks", 200),
            ("none", "/v1/tasks", 200), ("cross-site", "/", 200),
        ):  # fmt: skip
            async with http.get(gateway.http + path, headers={"Sec-Fetch-Site": site}) as answer:
                assert answer.status == status, site
        both = [("Origin", gateway.http), ("Origin", "https://evil.example")]
        for headers in (both, both[::-1]):
            async with http.get(f"{gateway.http}/v1/tasks", headers=headers) as answer:
                assert answer.status == 403


async def test_behind_a_proxy_that_is_named_the_page_is_an_https_one(
    database: str, http: aiohttp.ClientSession
) -> None:
    """Its word is taken for scheme and address; without its name the header means nothing, and the log says so once."""
    sent = {
        "Host": "localhost",
        "Origin": "https://localhost",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "198.51.100.7",
    }
    for arguments, status in ((("--trusted-proxy", "127.0.0.1"), 200), ((), 403)):
        async with GatewayProcess(database, *arguments) as gateway:
            for _ in range(2):
                async with http.get(f"{gateway.http}/v1/tasks", headers=sent) as answer:
                    assert answer.status == status
            headers = {"X-Forwarded-For": "198.51.100.7"}
            async with gateway.client(additional_headers=headers) as peer:
                assert peer.welcome
            await gateway.stop()
            opened = [line["address"] for line in gateway.log if line["event"] == "session_opened"]
            assert opened == ["198.51.100.7" if arguments else "127.0.0.1"]
            ignored = [line for line in gateway.log if line["event"] == "forwarded_header_ignored"]
            assert len(ignored) == (0 if arguments else 1)
