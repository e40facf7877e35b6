"""Makes a child's log line readable on a terminal: JSON becomes time, level, event and fields. Pure."""

from __future__ import annotations

import json
import re
from datetime import datetime

SHOWN_CHARACTERS = 400
NEWS_CHARACTERS = 88
"""An event of the level info is news, of which the beginning is enough; a complaint is shown at length."""

_NAMES = ("gateway", "backend", "watcher", "demo")
_WIDTH = max(map(len, _NAMES))
_COLOURS = {"gateway": "36", "backend": "35", "demo": "1"}
_APART = {"level", "event", "timestamp", "exception"}  # a stack is not for the terminal of a demo
_REFUSAL = re.compile(r"(connection to \S+): ConnectionRefusedError: .*")
_REFUSED = ": refused; trying again"
_LEVEL_COLOURS = {"warning": "33", "error": "31", "critical": "31"}


def readable(name: str, line: str, *, colour: bool) -> str:
    """`gateway │ 12:00:01 listening port=8080`; a line that is not JSON is shown as it is, only cut when too long."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    text = _event(fields, colour=colour) if isinstance(fields, dict) else line
    most = NEWS_CHARACTERS if isinstance(fields, dict) and fields.get("level", "info") == "info" else SHOWN_CHARACTERS
    if len(text) > most:
        text = text[:most] + " …"
    return f"{painted(name.ljust(_WIDTH), _COLOURS.get(name), colour=colour)} │ {text}"


def refusal_shortened(line: str) -> str:
    """A client's line on a gateway that is not there, without the address twice and without the figures."""
    return _REFUSAL.sub(rf"\1{_REFUSED}", line)


def is_refusal(line: str) -> bool:
    """Whether it is such a line."""
    return line.endswith(_REFUSED)


def painted(text: str, code: str | None, *, colour: bool) -> str:
    """Text in a terminal's colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text


def _event(fields: dict[str, object], *, colour: bool) -> str:
    level = str(fields.get("level", "info"))
    event = str(fields.get("event", ""))
    clock = _clock(fields.get("timestamp"))
    rest = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None and key not in _APART)
    mark = "" if level == "info" else painted(f"{level} ", _LEVEL_COLOURS.get(level), colour=colour)
    return " ".join(f"{clock}{mark}{event} {rest}".split())


def _clock(timestamp: object) -> str:
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S ")
    except ValueError:
        return ""
