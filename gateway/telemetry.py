"""Logs: one JSON object per line, or colours on a terminal. A task is always `task_id` in them.

Configured once by the command line, never at import. Nothing here ever sees a payload or a token: those are not passed
to log calls in the first place. What comes from outside (names, ids, versions of clients) cannot break out of its line
nor make a terminal do anything: see `UNSAFE`.
"""

from __future__ import annotations

import json as plain_json
import logging
import re
import sys
from collections.abc import MutableMapping
from io import StringIO
from typing import Any, Final, TextIO

import orjson
import structlog

UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
"""Control characters (those that begin a terminal's commands among them), line and paragraph separators, what is not
seen, and what reverses the text around it."""


def configure_logging(level: str, *, json: bool | None = None) -> None:
    """Send structlog and the standard library's logs to stderr. `json` None: JSON unless stderr is a terminal."""
    if json is None:
        json = not sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        one_name_for_a_task,
    ]
    renderer: list[structlog.typing.Processor]
    if json:
        # Without local variables: a token or a payload may be among them.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        renderer = [visible, structlog.dev.ConsoleRenderer(exception_formatter=_visible_traceback)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def one_name_for_a_task(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """`trace_id`, as older tables and callers say, is logged as `task_id`."""
    if "trace_id" in event:
        event.setdefault("task_id", event["trace_id"])
        del event["trace_id"]
    return event


def visible(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: what is unsafe is written as an escape."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _escaped(value)
        elif name != "exc_info" and not isinstance(value, int | float | None):
            event[name] = _escaped(repr(value))
    return event


def _visible_traceback(sink: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    sink.write("\n".join(_escaped(line) for line in text.getvalue().split("\n")))


def _json(event: Any, **_: Any) -> str:
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # half of a character, as it comes from bytes that are not UTF-8
        line = plain_json.dumps(event, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()
    return _escaped(line)  # where JSON has such a character it is in a string, and so may be written this way


def _escaped(text: str) -> str:
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
