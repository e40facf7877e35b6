"""What a session asks before it looks at a message: may its client send that much? `gateway.limits` knows."""

from __future__ import annotations

from typing import Final, Protocol

from gateway.protocol.codec import Unreadable
from gateway.protocol.errors import Bye
from gateway.protocol.messages import Inbound


class Budget(Protocol):
    """One connection's."""

    def charge(self, message: Inbound | Unreadable, now: float) -> Bye | None:
        """A message is about to be looked at: raises `ProtocolError` `rate_limited`, or gives the goodbye to say."""

    def join(self, tenant: str, subject: str) -> Bye | None:
        """The connection belongs to this principal; the goodbye to say where it has too many already."""


class _Unbounded:
    def charge(self, message: Inbound | Unreadable, now: float) -> Bye | None:
        return None

    def join(self, tenant: str, subject: str) -> Bye | None:
        return None


UNBOUNDED: Final[Budget] = _Unbounded()
"""For sessions of nobody's."""
