"""Makes a child's log line readable on a terminal: JSON becomes time, level, event and fields. Pure."""

from __future__ import annotations

import json
from datetime import datetime

SHOWN_CHARACTERS = 400
_NAMES = ("gateway", "backend", "demo")
_WIDTH = max(map(len, _NAMES))
_COLOURS = {"gateway": "36", "backend": "35", "demo": "1"}
_LEVEL_COLOURS = {"warning": "33", "error": "31", "critical": "31"}


def readable(name: str, line: str, *, colour: bool) -> str:
    """`gateway │ 12:00:01 listening port=8080`; a line that is not JSON is shown as it is, only cut when too long."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    text = _event(fields, colour=colour) if isinstance(fields, dict) else line
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + " …"
    return f"{painted(name.ljust(_WIDTH), _COLOURS.get(name), colour=colour)} │ {text}"


def painted(text: str, code: str | None, *, colour: bool) -> str:
    """Text in a terminal's colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text


def _event(fields: dict[str, object], *, colour: bool) -> str:
    level = str(fields.pop("level", "info"))
    event = str(fields.pop("event", ""))
    clock = _clock(fields.pop("timestamp", None))
    fields.pop("exception", None)  # a stack is not for the terminal of a demo
    rest = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
    mark = "" if level == "info" else painted(f"{level} ", _LEVEL_COLOURS.get(level), colour=colour)
    return f"{clock}{mark}{event} {rest}".rstrip()


def _clock(timestamp: object) -> str:
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S ")
    except ValueError:
        return ""
