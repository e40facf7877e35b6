"""Every failure of an HTTP request as RFC 9457 `application/problem+json`, with a code and whether to retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from gateway.protocol.codec import FRAME_BYTES, json_bytes
from gateway.protocol.errors import ERRORS, ProtocolError, as_protocol_error
from ledger.errors import LedgerError

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WHERE: Final = "Tasks are at /v1/tasks/{task_id}, the WebSocket is at /v1/ws; see docs/protocol.md."


def problem(error: ProtocolError, *, headers: dict[str, str] | None = None, **members: object) -> web.Response:
    """The answer for an error; `members` are added to the body."""
    code = ERRORS[error.code]
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(code.http).phrase,
        "status": code.http,
        "detail": error.message,
        "code": error.code,
        "retryable": code.retryable,
        "retry_after_ms": error.retry_after_ms,
        **members,
    }
    headers = dict(headers or {})
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, -(-error.retry_after_ms // 1000)))
    if code.http == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        body=json_bytes(body), status=code.http, content_type="application/problem+json", headers=headers
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an answer; what nobody expected is logged and said to be our fault."""
    try:
        return await handler(request)
    except ProtocolError as error:
        return problem(error)
    except LedgerError as error:
        return problem(as_protocol_error(error))
    except web.HTTPNotFound:
        return problem(ProtocolError("unknown_path", f"This server has no path {request.path}. {_WHERE}"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        wrong = ProtocolError("method_not_allowed", f"{request.path} takes {allowed}, not {request.method}.")
        return problem(wrong, headers={"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return problem(ProtocolError("frame_too_large", f"A body may have {FRAME_BYTES} bytes; send less at once."))
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return problem(ProtocolError("bad_request", f"{error.text or error.reason}."))
    except ConnectionError:
        raise  # the peer has gone; there is nobody to answer
    except Exception:
        log.exception("request_fault", path=request.path, method=request.method)
        return problem(ProtocolError("internal", "The server failed on this; it is in its log."))
