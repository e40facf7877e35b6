"""What is odd about a request, before PostgreSQL has said so."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.doubt import doubtful
from ledger.model import CancelRequest, Create, Report


@pytest.mark.parametrize(
    ("members", "odd"),
    [
        ({}, False),
        ({"stage": "é☃😀", "message": "\x01\x1f", "data": b'{"a":[1,null]}', "owner": None}, False),
        ({"message": "a\0b"}, True),
        ({"stage": "\ud800"}, True),
        ({"kind": "\udfff"}, True),
        ({"data": b'{"cut":'}, True),
        ({"result": b""}, True),
        ({"error": b'"\xff"'}, True),
        ({"data": b"[" * 100_000 + b"]" * 100_000}, True),
        ({"data": b'1\x1f"2"'}, True),
    ],
)
def test_a_report_is_doubted_for_what_no_text_and_no_json_may_hold(members: dict[str, Any], odd: bool) -> None:
    """And for nothing else."""
    assert doubtful(Report(tenant="a", task_id="b", **members)) is odd


def test_other_requests_are_looked_at_as_well() -> None:
    """Each has some of the members."""
    assert doubtful(Create(tenant="a", task_id="b", idem="0" * 32, digest="0" * 32, owner="\0"))
    assert not doubtful(Create(tenant="a", task_id="b", idem="0" * 32, digest="0" * 32, owner="me", data=b"1"))
    assert doubtful(CancelRequest(tenant="a", task_id="b", reason="\0"))
    assert not doubtful(CancelRequest(tenant="a", task_id="b"))
