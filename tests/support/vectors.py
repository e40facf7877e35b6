"""The conversations in tests/vectors: literal, two-sided, and the same for the server and for every client.

A step is a pair. Its first word says who does what; `client`, `worker` and so on are connections:

    "client>"   sends this message (an array: several in one frame; a string: this text)
    "client<"   gets this message
    "client:"   its application asks for this
    "client="   its application is shown this
    "database" "away" or "back" · "epoch" "new"

`$epoch` is the epoch of the newest `welcome`, `$old` of the first one. See tests/vectors/README.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

FOLDER: Final = Path(__file__).resolve().parents[1] / "vectors"
BY_KIND: Final = frozenset({
    "session", "epoch", "server_time", "at", "created_at", "updated_at", "beat_at", "beat_age_ms", "retry_after_ms",
    "expires_in_ms",
})  # fmt: skip
"""Members whose value differs from run to run."""

Step: TypeAlias = tuple[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector:
    """One conversation."""

    name: str
    about: str
    steps: list[Step]
    gateway: dict[str, Any] = field(default_factory=dict)
    """How it is set: `ping_interval_ms`, `max_connections`, `pings_per_second`; `tokens` or `jwt`: it wants one."""
    app: list[str] = field(default_factory=lambda: ["client"])
    """The connections that the application under test opens, in order."""
    not_by_the_server: str | None = None
    """Why a real server is not asked for it."""

    @property
    def for_clients(self) -> bool:
        """Whether there is an application in it."""
        return any(word.endswith((":", "=")) for word, _ in self.steps)

    def written(self) -> str:
        """As docs/protocol.md shows it: what goes over the wire."""
        return "".join(
            f"{word}{'' if word.endswith(('>', '<')) else ':'} {text_of(content)}\n"
            for word, content in self.steps
            if not word.endswith((":", "="))
        )


def text_of(content: Any) -> str:
    """A message as it is sent."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def read(name: str) -> Vector:
    """The vector of this name. Raises TypeError for a member that a vector does not have."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    steps = [(word, said) for word, said in content.pop("steps")]
    return Vector(name=name, steps=steps, **content)


def names() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def comparable(value: Any, name: str = "") -> Any:
    """The value with the members that differ from run to run replaced by their kind."""
    if name in BY_KIND:
        return type(value).__name__
    if isinstance(value, dict):
        return {key: comparable(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    return value


def shown_in(document: str) -> str:
    """The document with each conversation as its vector is now. Raises FileNotFoundError for one without a vector."""

    def block(found: re.Match[str]) -> str:
        return f"```conversation {found[1]}\n{read(found[1]).written()}```"

    return re.sub(r"```conversation (\S+)\n.*?```", block, document, flags=re.DOTALL)
