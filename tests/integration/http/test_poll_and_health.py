"""Polls of many tasks, health, and the index."""

from __future__ import annotations

import pytest

from tests.support.http import Http

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_poll_tells_of_many_tasks_at_once(http: Http, task_id: str) -> None:
    """Each id gets a verdict in its place; a task that is not newer than `after` comes without its content."""
    live, ended, unknown = (f"{task_id}-{name}" for name in ("live", "ended", "unknown"))
    await http.report(live, progress=10)
    await http.report(ended, status="completed")
    ids = f"ids={live},{ended},{unknown}"
    first = (await http(f"GET /v1/poll?{ids}")).json
    assert [(one["task_id"], one["verdict"]) for one in first["tasks"]] == [
        (live, "live"), (ended, "ended"), (unknown, "unknown"),
    ]  # fmt: skip
    assert ["task" in one for one in first["tasks"]] == [True, True, False]
    assert first["tasks"][0]["task"]["progress"] == 10
    unchanged = (await http(f"GET /v1/poll?{ids}&after=1,1,0&epoch={first['epoch']}")).json
    assert ["task" in one for one in unchanged["tasks"]] == [False, False, False]
    await http.report(live, progress=20)
    changed = (await http(f"GET /v1/poll?{ids}&after=1,1,0&epoch={first['epoch']}")).json
    assert ["task" in one for one in changed["tasks"]] == [True, False, False]
    rewound = (await http(f"GET /v1/poll?{ids}&after=9,9,9&epoch=e-older")).json
    assert ["task" in one for one in rewound["tasks"]] == [True, True, False], (
        "sequences of another history say nothing"
    )


async def test_health_and_index_need_no_token(door: Http) -> None:
    """Live, ready, the pools in figures, and where things are; none of them tells of any task."""
    assert (await door("GET /health/live")).json == {"status": "live"}
    ready = await door("GET /health/ready")
    assert (ready.status, ready.json) == (200, {"status": "ready"})
    db = await door("GET /health/db")
    figures = db.json
    assert db.headers["cache-control"] == "no-store"
    assert figures.keys() >= {"pool_size", "checked_in", "checked_out", "overflow", "waiting", "lanes"}
    assert figures["lanes"].keys() == {"write", "read", "control"}
    assert figures["pool_size"] == sum(lane["pool_size"] for lane in figures["lanes"].values()) >= 3
    assert figures["degraded"] is False
    index = (await door("GET /")).json
    assert index["name"] == "ledgerwire"
    assert index["websocket"] == "/v1/ws"
