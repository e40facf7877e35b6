"""The door for batches of reports: what may come in, and how many batches at once. `intake` does the work."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from gateway.http.guard import PRINCIPAL
from gateway.http.intake import REQUEST_BYTES, Intake, stopping, too_large
from gateway.http.ops import HEALTH
from gateway.http.problems import problem
from gateway.http.tasks import SERVICES
from gateway.protocol.access import check
from gateway.protocol.errors import ProtocolError

INTAKES: Final = web.AppKey("intakes", set[Intake])
INTAKES_AT_ONCE: Final = 32
"""Each may hold about 3 MiB by the bounds of `intake`, so 100 MiB in all."""
MEDIA_TYPES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
CODINGS: Final = {"": False, "identity": False, "gzip": True, "x-gzip": True}

routes = web.RouteTableDef()


@routes.post("/v1/transitions")
async def transitions(request: web.Request) -> web.StreamResponse:
    """Many reports, of any tasks; 200 and an outcome for each line, or a problem when not one could be read."""
    if request.content_type not in MEDIA_TYPES:
        return problem(
            ProtocolError("unsupported_media_type", "Send one report per line as Content-Type: application/x-ndjson."),
            headers={"Accept-Post": "application/x-ndjson"},
        )
    gzip = CODINGS.get(request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower())
    if gzip is None:
        return problem(
            ProtocolError("unsupported_media_type", "The only Content-Encoding that is taken here is gzip."),
            headers={hdrs.ACCEPT_ENCODING: "gzip"},
        )
    if request.headers.get("Idempotency-Key"):
        raise ProtocolError("bad_request", "Many reports cannot share an Idempotency-Key; give each line its `key`.")
    check(request[PRINCIPAL], "report")
    if (request.content_length or 0) > REQUEST_BYTES:
        raise too_large(f"{REQUEST_BYTES} bytes")
    if request.app[HEALTH].draining():
        raise stopping()
    intakes = request.app[INTAKES]
    if len(intakes) >= INTAKES_AT_ONCE:
        raise ProtocolError("busy", "This server is taking in too many batches; try again.", retry_after_ms=1_000)
    intake = Intake(request, request.app[SERVICES], request[PRINCIPAL], gzip=gzip)
    intakes.add(intake)
    try:
        return await intake.run()
    finally:
        intakes.discard(intake)
