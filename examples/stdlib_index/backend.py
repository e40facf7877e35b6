"""The web side: the page, `GET /settings` for it, and `POST /jobs`.

Holds no state of jobs: a page asks the gateway. A page never names a path: it may choose from
`Settings.folders`. Everything is served with a policy that allows no inline script or style, and a connection
to this server and to the one gateway only.
"""

from __future__ import annotations

import json
import platform
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

import ledgerwire
from examples.stdlib_index.jobs import Full, Jobs, Plan

PAGE = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
BODY_BYTES_MAX = 1024
CLIENT = "stdlib-index/1.0"
TIMING = ledgerwire.Timing(reconnect_ceiling_seconds=2.0)  # the gateway is on the same machine

SETTINGS: web.AppKey[Settings] = web.AppKey("settings")
JOBS: web.AppKey[Jobs] = web.AppKey("jobs", Jobs)
HEADERS: web.AppKey[Mapping[str, str]] = web.AppKey("headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What this process was started with. A page may choose from `folders`; the first is the usual one."""

    gateway: str
    folders: Mapping[str, Path]
    plan: Plan


def make_app(settings: Settings) -> web.Application:
    """The application; its worker connects when the application starts, and is closed with it."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[SETTINGS] = settings
    app[HEADERS] = headers_for(settings.gateway)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(run_jobs)
    app.router.add_get("/", serve_index)
    app.router.add_get("/settings", serve_settings)
    app.router.add_post("/jobs", start_job)
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES:
            app.router.add_get(f"/{path.name}", serve_file)
    return app


def headers_for(gateway: str) -> Mapping[str, str]:
    """The headers of every answer; the page may connect to this gateway and no other."""
    parts = urlsplit(gateway)
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": f"'self' {parts.scheme}://{parts.netloc}{parts.path}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer carries the policy, errors too."""
    response.headers.update(request.app[HEADERS])


async def run_jobs(app: web.Application) -> AsyncIterator[None]:
    """The worker lives as long as the application."""
    settings = app[SETTINGS]
    async with ledgerwire.Worker(settings.gateway, token=None, client=CLIENT, timing=TIMING) as worker:
        app[JOBS] = jobs = Jobs(worker, gateway=settings.gateway, plan=settings.plan)
        yield
        await jobs.close()


async def serve_index(request: web.Request) -> web.StreamResponse:
    """The page."""
    return web.FileResponse(PAGE / "index.html")


async def serve_file(request: web.Request) -> web.StreamResponse:
    """A file of the page; the routes are made from the folder, so the name is one of its files."""
    path = PAGE / Path(request.path).name
    return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: TYPES[path.suffix]})


async def serve_settings(request: web.Request) -> web.Response:
    """`{"gateway", "python"}`: whom the page connects to, and what is being indexed."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return web.json_response({"gateway": request.app[SETTINGS].gateway, "python": python})


async def start_job(request: web.Request) -> web.Response:
    """Start a job: `{"folder"?}` → 201 `{"task_id", "gateway"}`, or 202 while the ledger has not confirmed
    the task.

    An error is `{"error": sentence}`: 400 for a body that is not understood, 403 for another site's page, 415
    for another type, 502 when the gateway will not have the task, 503 when too many jobs wait already.
    """
    settings = request.app[SETTINGS]
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc != request.host:
        return refusal(403, "Only this server's own page may start a job.")
    if request.content_type != "application/json":
        return refusal(415, "Send a JSON object.")
    body = await body_of(request)
    if body is None:
        return refusal(400, "Send a JSON object.")
    folder = settings.folders.get(body.get("folder", next(iter(settings.folders))))
    if folder is None:
        return refusal(400, f"`folder` is one of: {', '.join(settings.folders)}.")
    try:
        started = await request.app[JOBS].start(folder)
    except Full:
        return refusal(503, "Too many jobs are waiting already; try again when one has ended.")
    except ledgerwire.LedgerwireError as error:
        return refusal(502, f"The gateway will not have this job: {error}")
    answer = {"task_id": started.task_id, "gateway": settings.gateway}
    return web.json_response(answer, status=201 if started.confirmed else 202)


async def body_of(request: web.Request) -> dict[str, Any] | None:
    """The JSON object of the body (an empty one counts as `{}`); None for anything else."""
    try:
        body = json.loads(await request.text() or "{}")
    except (ValueError, web.HTTPRequestEntityTooLarge):
        return None
    known = isinstance(body, dict) and isinstance(body.get("folder", ""), str)
    return body if known else None


def refusal(status: int, sentence: str) -> web.Response:
    """An error in words."""
    return web.json_response({"error": sentence}, status=status)
