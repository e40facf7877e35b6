"""Tasks over plain HTTP: the same requests and the same objects as over the WebSocket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from gateway import audit
from gateway.http.entry import entered
from gateway.http.guard import PRINCIPAL
from gateway.principal import Principal, may
from gateway.protocol import codec, messages
from gateway.protocol.access import check, held_tasks, listing, wish
from gateway.protocol.errors import ProtocolError
from gateway.services import Services
from gateway.transports import longpoll, sse
from ledger.batch import Outcome
from ledger.errors import LedgerError
from ledger.machine import TERMINAL, Liveness, Status
from ledger.model import Facts, Head, Key, Receipt, Rejection, Report, Request, Task, task_key
from ledger.receipts import unknown_task

SERVICES: Final = web.AppKey("services", Services)
POLLED_TASKS: Final = 100
WAIT_SECONDS: Final = 60
BODY_SECONDS: Final = 10
PAGE_TASKS: Final = 50
PAGE_TRANSITIONS: Final = 500

M = TypeVar("M")

routes = web.RouteTableDef()
_json: Final = msgspec.json.Decoder()
_prefer_wait: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})")


@routes.post("/v1/tasks")
async def create(request: web.Request) -> web.Response:
    """Announce a task; without `task_id` one is made, from the Idempotency-Key when there is one."""
    principal, key = request[PRINCIPAL], _idempotency_key(request)
    body = await _body(request)
    if body.get("task_id") is None:
        name = f"{principal.tenant}\x1f{principal.subject}\x1f{key}".encode()
        body["task_id"] = "t-" + (hashlib.sha256(name).hexdigest()[:32] if key else secrets.token_hex(16))
    message = _convert({**body, "id": 0, "key": key or body.get("key")}, messages.Create)
    receipt = await _submit(request, message)
    return _answer(
        codec.receipt_members(receipt),
        status=200 if receipt.repeat else 201,
        headers={"Location": f"/v1/tasks/{receipt.task_id}"},
    )


@routes.get("/v1/tasks")
async def history(request: web.Request) -> web.Response:
    """A page of tasks, newest first."""
    query = request.query
    limit = _number(request, "limit", default=PAGE_TASKS, least=1, most=200)
    try:
        statuses = [Status(word) for word in query["status"].split(",")] if query.get("status") else None
    except ValueError as error:
        raise ProtocolError("bad_request", f"`status` may be {', '.join(Status)}.") from error
    scope = listing(request[PRINCIPAL], owner=query.get("owner"), kind=query.get("kind"))
    page = await request.app[SERVICES].reader.history(
        request[PRINCIPAL].tenant,
        owner=scope.owner,
        statuses=statuses,
        kind=scope.kind,
        before=_page_after(query.get("cursor")),
        limit=limit,
    )
    found = [codec.task_members(task) for task in page.tasks]
    after = _page_cursor(page.tasks[-1]) if page.more else None
    return _answer({"epoch": request.app[SERVICES].epoch, "tasks": found, "next": after})


@routes.get("/v1/tasks/{task_id}")
async def task(request: web.Request) -> web.Response:
    """A snapshot, or with `Prefer: wait=` the first one beyond `after`."""
    services, task_id = request.app[SERVICES], _task_id(request)
    after = _number(request, "after", default=-1, most=2**63 - 1)
    wait = _prefer_wait.search(request.headers.get("Prefer", ""))
    principal = request[PRINCIPAL]
    check(principal, "watch")

    def granted(one: Task | None) -> Task | None:
        facts = None if one is None else Facts(one.owner, one.kind)
        return one if may(principal, "watch", task_id, facts) else None

    if wait is None:
        found = granted(await services.reader.task(principal.tenant, task_id))
    else:
        _check_room(services)
        seconds = min(int(wait.group(1)), WAIT_SECONDS)
        with entered(request, services.quotas):
            found = await longpoll.wait_for(
                services.hub, services.reader, principal.tenant, task_id, after=after, seconds=seconds, granted=granted
            )
    if found is None:
        raise _unknown(task_id)
    late = ":late" if found.liveness is Liveness.LATE else ""  # a change that has no sequence
    etag = f'"{services.epoch}:{found.seq}{late}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
        return web.Response(status=304, headers=headers)
    if found.status not in TERMINAL:
        headers["Retry-After"] = "2"
    return _answer({**codec.task_members(found), "epoch": services.epoch}, headers=headers)


@routes.get("/v1/tasks/{task_id}/transitions")
async def transitions(request: web.Request) -> web.Response:
    """A page of a task's transitions."""
    services, task_id = request.app[SERVICES], _task_id(request)
    after = _number(request, "after", default=0, most=2**63 - 1)
    limit = _number(request, "limit", default=PAGE_TRANSITIONS, least=1, most=PAGE_TRANSITIONS)
    key, head = await _head(request, task_id)
    page = await services.reader.replay([(key, after)], limit=limit)
    return _answer(
        {
            "epoch": services.epoch,
            "transitions": [codec.transition_members(transition) for transition in page],
            "more": bool(page) and page[-1].seq < head.seq,
        }
    )


@routes.post("/v1/tasks/{task_id}/transitions")
async def report(request: web.Request) -> web.Response:
    """A worker's report."""
    body = _of_path(request, await _body(request))
    if (key := _idempotency_key(request)) is not None:
        body["key"] = key
    receipt = await _submit(request, _convert(body, messages.Report))
    return _answer(codec.receipt_members(receipt))


@routes.post("/v1/tasks/{task_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """A cancel request."""
    body = await _body(request) if request.can_read_body else {}
    body = {**_of_path(request, body), "id": 0, "key": _idempotency_key(request) or body.get("key")}
    receipt = await _submit(request, _convert(body, messages.Cancel))
    return _answer(codec.receipt_members(receipt))


@routes.post("/v1/tasks/{task_id}/beat")
async def beat(request: web.Request) -> web.Response:
    """A worker's sign of life. It is written within a second, so there is nothing to answer yet."""
    body = await _body(request) if request.can_read_body else {}
    held = _convert(_of_path(request, body), messages.Held)
    principal = request[PRINCIPAL]
    check(principal, "report")
    request.app[SERVICES].beats.add(held_tasks(principal, [held]), principal.tenant)
    return web.Response(status=202)


@routes.get("/v1/tasks/{task_id}/events", allow_head=False)
async def events(request: web.Request) -> web.StreamResponse:
    """A task as server-sent events."""
    services, task_id = request.app[SERVICES], _task_id(request)
    after = sse.cursor_of(request.headers.get("Last-Event-ID") or request.query.get("last_event_id"))
    _, head = await _head(request, task_id)
    if head.status in TERMINAL and after is not None and (after.epoch, after.seq) == (services.epoch, head.seq):
        return web.Response(status=204)
    _check_room(services)
    with entered(request, services.quotas) as allowance:
        return await sse.serve(request, services, request[PRINCIPAL], task_id, after, allowance)


@routes.get("/v1/poll")
async def poll(request: web.Request) -> web.Response:
    """Many tasks at once, for clients without a socket."""
    services, principal = request.app[SERVICES], request[PRINCIPAL]
    check(principal, "watch")
    if not request.query.get("ids"):
        raise ProtocolError("bad_request", f"Name 1 to {POLLED_TASKS} task ids: ?ids=a,b")
    ids = [codec.check_task_id(task_id) for task_id in request.query.get("ids", "").split(",")]
    if len(ids) > POLLED_TASKS:
        raise ProtocolError("bad_request", f"`ids` may name {POLLED_TASKS} tasks.")
    seen = request.query.get("after", "").split(",") if request.query.get("after") else ["0"] * len(ids)
    if len(seen) != len(ids) or not all(re.fullmatch(r"\d{1,18}", seq, re.ASCII) for seq in seen):
        raise ProtocolError("bad_request", "`after` has one sequence per id, in the same order.")
    keys = [task_key(principal.tenant, task_id) for task_id in ids]
    found = {
        one.key: one
        for one in await services.reader.tasks(keys)
        if may(principal, "watch", one.task_id, Facts(one.owner, one.kind))
    }
    same_history = request.query.get("epoch", services.epoch) == services.epoch
    polled: list[dict[str, object]] = []
    for task_id, key, seq in zip(ids, keys, seen, strict=True):
        known = found.get(key)
        if known is None:
            polled.append({"task_id": task_id, "verdict": "unknown"})
            continue
        one: dict[str, object] = {
            "task_id": task_id,
            "verdict": "ended" if known.status in TERMINAL else "live",
        }
        if known.seq > int(seq) or not same_history:
            one["task"] = codec.task_members(known)
        polled.append(one)
    return _answer({"epoch": services.epoch, "tasks": polled})


def _check_room(services: Services) -> None:
    if services.hub.connections >= services.max_connections:
        raise ProtocolError("busy", "This server has too many connections; try again.", retry_after_ms=5_000)


async def _head(request: web.Request, task_id: str) -> tuple[Key, Head]:
    """How far a task has come that may be watched. Raises `ProtocolError` `unknown_task` for any other."""
    reader, principal = request.app[SERVICES].reader, request[PRINCIPAL]
    check(principal, "watch")
    key = task_key(principal.tenant, task_id)
    head = (await reader.heads([key])).get(key)
    facts = None if principal.everything("watch") else (await reader.facts([key])).get(key)
    if head is None or not may(principal, "watch", task_id, facts):
        raise _unknown(task_id)
    return key, head


async def _submit(request: web.Request, message: messages.Report | messages.Create | messages.Cancel) -> Receipt:
    principal = request[PRINCIPAL]
    wanted = wish(principal, message)
    try:
        answer = await request.app[SERVICES].writer.submit(wanted)
    except LedgerError as error:
        _note(principal, wanted, error)
        raise
    _note(principal, wanted, answer)
    if isinstance(answer, Rejection):
        raise ProtocolError(answer.code, answer.message)
    return answer


def _note(principal: Principal, wanted: Request, outcome: Outcome) -> None:
    if not isinstance(wanted, Report):
        audit.note_outcome(principal, wanted, outcome)


async def _body(request: web.Request) -> dict[str, object]:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise ProtocolError(
            "unsupported_media_type", "Send this without Content-Encoding; only POST /v1/transitions takes gzip."
        )
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.read()
        body = _json.decode(raw.decode())  # UTF-8, whatever charset the client claims
    except TimeoutError as error:
        raise ProtocolError("bad_request", f"The body did not arrive within {BODY_SECONDS} s.") from error
    except (msgspec.DecodeError, RecursionError, UnicodeError, LookupError) as error:
        raise ProtocolError("bad_json", "The body is not valid JSON in UTF-8.") from error
    if not isinstance(body, dict):
        raise ProtocolError("bad_request", "The body must be a JSON object.")
    return body


def _convert(body: dict[str, object], type_: type[M]) -> M:
    body.pop("type", None)
    try:
        return msgspec.convert(body, type_)
    except msgspec.ValidationError as error:
        raise ProtocolError("bad_request", f"{error}.") from error


def _task_id(request: web.Request) -> str:
    return codec.check_task_id(request.match_info["task_id"])


def _of_path(request: web.Request, body: dict[str, object]) -> dict[str, object]:
    """The body with the path's `task_id`; one of its own must be the same."""
    task_id = _task_id(request)
    if (own := body.get("task_id", task_id)) != task_id:
        raise ProtocolError("bad_request", f"`task_id` in the body is {str(own)[:129]}, but the path says {task_id}.")
    return {**body, "task_id": task_id}


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key") or None
    if key is not None and not key.isprintable():  # nor is what stands for bytes that are not UTF-8
        raise ProtocolError("bad_request", "`Idempotency-Key` must be printable text in UTF-8.")
    return key


def _number(request: web.Request, name: str, *, default: int, least: int = 0, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise ProtocolError("bad_request", f"`{name}` is a number from {least} to {most}.")
    return int(text)


def _page_cursor(task: Task) -> str:
    return base64.urlsafe_b64encode(f"{task.created_at.isoformat()} {task.key}".encode()).decode().rstrip("=")


def _page_after(cursor: str | None) -> tuple[datetime, Key] | None:
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, _, key = text.partition(" ")
        at = datetime.fromisoformat(created_at)
        if at.tzinfo is None:
            raise ValueError(created_at)
        return at, UUID(key).hex
    except ValueError as error:
        raise ProtocolError("bad_request", "`cursor` is not the `next` of a page.") from error


def _unknown(task_id: str) -> ProtocolError:
    unknown = unknown_task(task_id)
    return ProtocolError(unknown.code, unknown.message)


def _answer(content: dict[str, object], *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=codec.json_bytes(content), status=status, headers=headers, content_type="application/json")
