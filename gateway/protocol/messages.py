"""What a client or worker may send, as types. Pure; `codec` decodes into these, `session` acts on them.

The limits of single members are here, each where it is used. Members that nobody knows are ignored, so that newer
clients can talk to older servers.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

DATA_BYTES: Final = 16 * 1024
"""Progress data: small enough that a replay page of it is a fraction of a second on a phone."""
RESULT_BYTES: Final = 32 * 1024
"""A result is stored once and sent in every snapshot; larger ones belong behind a URL."""
ERROR_BYTES: Final = 16 * 1024
MESSAGES_PER_FRAME: Final = 500
"""As many as one group commit takes."""
SUBSCRIPTIONS: Final = 1_000
"""Per connection; each costs about a kilobyte here and a share of the re-read of watched tasks."""
WAIT_MS: Final = 600_000
LEASE_MS: Final = (100, 86_400_000)
"""The least and the most: a shorter one would run out before the next beat is written; in a day every worker speaks."""
DEADLINE_MS: Final = 30 * 86_400_000
"""A month: a task that may take longer has no deadline."""

Id = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)]
Key = Annotated[str, Meta(min_length=1, max_length=128)]
Label = Annotated[str, Meta(max_length=128)]
Stage = Annotated[str, Meta(max_length=256)]
Message = Annotated[str, Meta(max_length=2_048)]
Progress = Annotated[float, Meta(ge=0, le=100)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
WaitMs = Annotated[int, Meta(ge=0, le=WAIT_MS)]
LeaseMs = Annotated[int, Meta(ge=LEASE_MS[0], le=LEASE_MS[1])]
DeadlineMs = Annotated[int, Meta(ge=1, le=DEADLINE_MS)]
TaskIds = Annotated[list[str], Meta(min_length=1, max_length=SUBSCRIPTIONS)]
ReportedStatus = Literal["pending", "running", "completed", "failed", "cancelled"]


class Hello(Struct, frozen=True, tag="hello", tag_field="type"):
    """Opens the conversation."""

    v: int
    token: Annotated[str, Meta(max_length=8_192)] | None = None
    client: Annotated[str, Meta(max_length=128)] | None = None


class Refresh(Struct, frozen=True, tag="refresh", tag_field="type"):
    """Replaces the token of an open connection."""

    id: Id
    token: Annotated[str, Meta(max_length=8_192)]


class Cursor(Struct, frozen=True):
    """All up to here has been seen."""

    epoch: Annotated[str, Meta(max_length=64)]
    seq: Seq


class Wanted(Struct, frozen=True):
    """One task of a subscribe."""

    task_id: str
    after: Cursor | None = None
    wait_ms: WaitMs | None = None
    """None: that of the whole subscribe."""


class Subscribe(Struct, frozen=True, tag="subscribe", tag_field="type"):
    """Watch these tasks."""

    id: Id
    tasks: Annotated[list[Wanted], Meta(min_length=1, max_length=SUBSCRIPTIONS)]
    mode: Literal["all", "latest"] = "all"
    wait_ms: WaitMs = 0


class Unsubscribe(Struct, frozen=True, tag="unsubscribe", tag_field="type"):
    """Watch these no longer."""

    id: Id
    task_ids: TaskIds


class Cancel(Struct, frozen=True, tag="cancel", tag_field="type"):
    """Ask for the end of a task."""

    id: Id
    task_id: str
    reason: Message | None = None
    key: Key | None = None


class Create(Struct, frozen=True, tag="create", tag_field="type"):
    """Announce a task."""

    id: Id
    task_id: str
    kind: Label | None = None
    owner: Label | None = None
    data: Any = UNSET
    key: Key | None = None
    lease_ms: LeaseMs | None = None
    deadline_ms: DeadlineMs | None = None


class Report(Struct, frozen=True, tag="report", tag_field="type"):
    """Say what has changed of a task."""

    task_id: str
    id: Id | None = None
    attempt: Number | Literal["new"] | None = None
    n: Number | None = None
    key: Key | None = None
    status: ReportedStatus | None = None
    progress: Progress | UnsetType | None = UNSET
    stage: Stage | UnsetType | None = UNSET
    message: Message | UnsetType | None = UNSET
    data: Any = UNSET
    result: Any = UNSET
    error: Any = UNSET
    kind: Label | None = None
    owner: Label | None = None
    cancel: Literal["delivered", "refused"] | None = None
    lease_ms: LeaseMs | None = None
    deadline_ms: DeadlineMs | None = None


class Attend(Struct, frozen=True, tag="attend", tag_field="type"):
    """Tell me of cancel requests for these tasks."""

    id: Id
    task_ids: TaskIds


class Held(Struct, frozen=True):
    """A task, and the attempt that holds it."""

    task_id: str
    attempt: Number | None = None


class Beat(Struct, frozen=True, tag="beat", tag_field="type"):
    """I am still at work on these."""

    task_ids: Annotated[list[str | Held], Meta(min_length=1, max_length=SUBSCRIPTIONS)]


class Ping(Struct, frozen=True, tag="ping", tag_field="type"):
    """Are you there?"""


class Pong(Struct, frozen=True, tag="pong", tag_field="type"):
    """I am."""


Inbound = Hello | Refresh | Subscribe | Unsubscribe | Cancel | Create | Report | Attend | Beat | Ping | Pong
TYPES: Final = frozenset(
    {
        "hello",
        "refresh",
        "subscribe",
        "unsubscribe",
        "cancel",
        "create",
        "report",
        "attend",
        "beat",
        "ping",
        "pong",
    }
)
