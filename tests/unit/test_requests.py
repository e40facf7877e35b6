"""From a message to a request: what no type can say is refused here, and what tells a repeat is made here."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from gateway.protocol import messages
from gateway.protocol.errors import ProtocolError
from gateway.protocol.requests import cancel_request, create_request, report_request
from ledger.machine import Status
from ledger.model import Report


def report(**members: Any) -> Report:
    """A report of task `a`, as it comes from the wire."""
    return report_request("t", msgspec.convert({"task_id": "a", **members}, messages.Report))


def test_a_report_says_what_the_message_said() -> None:
    """What was left out is UNSET, null is None, payloads are JSON text."""
    made = report(
        attempt=2, n=3, status="completed", progress=100, stage=None, data={"a": [1]}, result=None, error="x",
        kind="import", owner="alice", lease_ms=100, deadline_ms=1,
    )  # fmt: skip
    assert made == Report(
        tenant="t", task_id="a", attempt=2, n=3, digest=made.digest, status=Status.COMPLETED, progress=100.0,
        stage=None, message=UNSET, data=b'{"a":[1]}', result=b"null", error=b'"x"', kind="import", owner="alice",
        lease_ms=100, deadline_ms=1,
    )  # fmt: skip
    assert report() == Report(tenant="t", task_id="a")


@pytest.mark.parametrize("status", ["pending", "running", "completed", "failed", "cancelled"])
def test_every_status_that_a_worker_may_report_is_one_of_the_ledgers(status: str) -> None:
    """The words are the same."""
    assert report(status=status).status is Status(status)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"n": 1}, "`n` counts within an attempt: send `attempt` as a number too."),
        ({"n": 1, "attempt": "new"}, "`n` counts within an attempt: send `attempt` as a number too."),
        ({"n": 1, "attempt": 1, "key": "k"}, "Send `n` or `key`, not both: either makes the report repeatable."),
        (
            {"cancel": "refused", "status": "running"},
            "Send `cancel` or `status`: an answer to a cancel request has no status.",
        ),
        ({"stage": "a\0"}, "`stage` contains a NUL character."),
        ({"message": "\0"}, "`message` contains a NUL character."),
        ({"key": "\0"}, "`key` contains a NUL character."),
        ({"kind": "\0"}, "`kind` contains a NUL character."),
        ({"owner": "\0"}, "`owner` contains a NUL character."),
        ({"data": "x" * 16_383}, "`data` has 16385 bytes; 16384 are allowed."),
        ({"result": "x" * 32_767}, "`result` has 32769 bytes; 32768 are allowed."),
        ({"error": "x" * 16_383}, "`error` has 16385 bytes; 16384 are allowed."),
        ({"data": 2**64}, "`data` cannot be stored: Integer exceeds 64-bit range."),
    ],
)
def test_what_cannot_be_meant_or_stored_is_refused(members: dict[str, Any], sentence: str) -> None:
    """With a sentence that names the member."""
    with pytest.raises(ProtocolError) as refused:
        report(**members)
    assert (refused.value.code, refused.value.message) == ("bad_request", sentence)


def test_payloads_may_be_as_large_as_the_document_says() -> None:
    """16, 32 and 16 KiB of JSON text."""
    made = report(data="x" * 16_382, result="x" * 32_766, error="x" * 16_382)
    assert [len(text or b"") for text in (made.data, made.result, made.error)] == [16_384, 32_768, 16_384]


def test_a_bad_task_id_is_refused_in_every_request() -> None:
    """Before anything else."""
    for make in (
        lambda: report_request("t", messages.Report(task_id="no spaces", n=1)),
        lambda: create_request("t", messages.Create(id=1, task_id="no spaces", kind="\0")),
        lambda: cancel_request("t", messages.Cancel(id=1, task_id="no spaces", reason="\0")),
    ):
        with pytest.raises(ProtocolError) as refused:
            make()
        assert refused.value.code == "bad_task_id"


def test_only_a_named_report_has_a_digest() -> None:
    """Without a number or a key a repeat cannot be told."""
    assert report(progress=1).digest is None
    assert report(attempt=1, progress=1).digest is None
    assert report(attempt=1, n=1, progress=1).digest == report(key="k", progress=1).digest is not None


def test_a_digest_tells_contents_apart_and_nothing_else() -> None:
    """Left out and null differ; what only places the report does not count."""
    contents: list[dict[str, Any]] = [
        {}, {"progress": 0}, {"progress": None}, {"stage": None}, {"stage": ""}, {"message": ""}, {"status": "running"},
        {"cancel": "refused"}, {"cancel": "delivered"}, {"data": None}, {"result": None}, {"error": None},
        {"kind": "x"}, {"owner": "x"}, {"data": "null"}, {"stage": "a"}, {"message": "a"},
        {"lease_ms": 1_000}, {"lease_ms": 2_000}, {"deadline_ms": 1_000},
    ]  # fmt: skip
    digests = {report(key="k", **content).digest for content in contents}
    assert len(digests) == len(contents)
    assert report(attempt=1, n=1, progress=1).digest == report(attempt=2, n=5, progress=1).digest
    assert report(key="k", progress=1).digest == report(key="other", progress=1.0, attempt="new").digest


def test_a_key_is_kept_as_its_digest() -> None:
    """So that it takes 16 bytes, whatever it is; the same for every sort of request."""
    kept = hashlib.sha256(b"key\x1f\xc3\xa9").hexdigest()[:32]
    assert report(key="é").idem == kept
    assert create_request("t", messages.Create(id=1, task_id="a", key="é")).idem == kept
    assert cancel_request("t", messages.Cancel(id=1, task_id="a", key="é")).idem == kept


def test_without_a_key_the_content_of_a_create_is_its_key() -> None:
    """So that every create can be repeated."""
    plain = create_request("t", messages.Create(id=1, task_id="a", kind="import", data={"a": 1}))
    assert plain.idem == plain.digest
    again = create_request("t", messages.Create(id=2, task_id="a", kind="import", data={"a": 1}))
    assert again == plain
    for different in ({"owner": "alice"}, {"lease_ms": 1_000}, {"deadline_ms": 1_000}):
        other = create_request("t", messages.Create(id=1, task_id="a", kind="import", data={"a": 1}, **different))
        assert other.idem == other.digest != plain.digest
    keyed = create_request("t", messages.Create(id=1, task_id="a", kind="import", data={"a": 1}, key="k"))
    assert (keyed.digest, keyed.data) == (plain.digest, b'{"a":1}')
    assert keyed.idem != plain.idem


@pytest.mark.parametrize(
    "members",
    [{"lease_ms": 99}, {"lease_ms": 86_400_001}, {"lease_ms": 1.5}, {"deadline_ms": 0}, {"deadline_ms": 2_592_000_001}],
)
def test_a_lease_and_a_deadline_have_bounds(members: dict[str, Any]) -> None:
    """From a tenth of a second to a day, and up to thirty days; the same for a report and a create."""
    fits = {"lease_ms": 86_400_000, "deadline_ms": 2_592_000_000}
    assert (report(**fits).lease_ms, report(**fits).deadline_ms) == (86_400_000, 2_592_000_000)
    for type_ in (messages.Report, messages.Create):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"id": 1, "task_id": "a", **members}, type_)


@pytest.mark.parametrize("member", ["kind", "owner", "key"])
def test_a_create_with_a_nul_is_refused(member: str) -> None:
    """PostgreSQL's text has none."""
    with pytest.raises(ProtocolError, match=f"`{member}` contains a NUL"):
        create_request("t", msgspec.convert({"id": 1, "task_id": "a", member: "\0"}, messages.Create))


def test_a_cancel_has_a_digest_only_with_a_key() -> None:
    """Of its reason."""
    plain = cancel_request("t", messages.Cancel(id=1, task_id="a", reason="why"))
    assert (plain.idem, plain.digest, plain.reason) == (None, None, "why")
    keyed = [cancel_request("t", messages.Cancel(id=1, task_id="a", key="k", reason=why)) for why in ("a", "b", None)]
    assert len({one.digest for one in keyed}) == 3
    with pytest.raises(ProtocolError, match="`reason` contains a NUL"):
        cancel_request("t", messages.Cancel(id=1, task_id="a", reason="\0"))
