"""What a principal's grants make of its requests and reads. Pure.

Requests are judged by the ledger's own decision, against the task as it stands there (`Guard`), so nothing can come in
between. A refusal says the same of a task that is not granted and of one that nobody has heard of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway.principal import Principal, Standing, Verb, may, standing
from gateway.protocol import messages
from gateway.protocol.codec import check_task_id
from gateway.protocol.errors import ProtocolError
from gateway.protocol.requests import cancel_request, create_request, report_request
from ledger.model import CancelRequest, Create, Facts, Key, Rejection, Report, Request, State, task_key
from ledger.receipts import unknown_task

R = TypeVar("R", Report, Create, CancelRequest)


class Guard(Struct, frozen=True):
    """Travels with the request of a principal that may not do this to all tasks of its tenant."""

    principal: Principal
    verb: Verb

    def refusal(self, request: Report | Create | CancelRequest, state: State | None) -> Rejection | None:
        """Why nothing comes of it against this state of its task; None where it is granted.

        Who a task belongs to is what the ledger says; what the request says counts for a task that it would make.
        """
        if state is not None:
            facts: Facts | None = Facts(state.owner, state.kind)
        elif isinstance(request, CancelRequest):
            facts = None
        else:
            facts = Facts(request.owner, request.kind)
        if may(self.principal, self.verb, request.task_id, facts):
            return None
        if not self.principal.has(self.verb):
            return Rejection(code="forbidden", message=f"This token may not {self.verb} tasks.")
        if not isinstance(request, Create):
            return unknown_task(request.task_id)
        if state is None:
            return Rejection(code="forbidden", message="This token may not create a task of this id, owner and kind.")
        return Rejection(code="task_exists", message=f"There is a task {request.task_id} already; choose another id.")


def guarded(principal: Principal, verb: Verb, request: R) -> R:
    """The request, with a guard where the principal may not do this to all tasks."""
    return request if principal.everything(verb) else replace(request, guard=Guard(principal, verb))


def wish(principal: Principal, message: messages.Report | messages.Create | messages.Cancel) -> Request:
    """What a message asks of the ledger, as this principal may ask it. Raises `ProtocolError` as `requests` does.

    Who may report nothing is refused here: reports come by the thousand. Creates and cancels go on to the ledger, and
    so into the audit log.
    """
    if isinstance(message, messages.Report):
        check(principal, "report")
        return guarded(principal, "report", report_request(principal.tenant, message))
    if isinstance(message, messages.Create):
        return guarded(principal, "create", create_request(principal.tenant, message))
    return guarded(principal, "cancel", cancel_request(principal.tenant, message))


def check(principal: Principal, verb: Verb) -> None:
    """Raises `ProtocolError` `forbidden` when the principal may not do this to any task, whatever its id."""
    if not principal.has(verb):
        raise ProtocolError("forbidden", f"This token may not {verb} tasks.")


def held_tasks(principal: Principal, some: Sequence[str | messages.Held]) -> list[tuple[Key, int | None, str | None]]:
    """The tasks of a beat, each with the attempt that gives it, where it says so, and on which condition it counts."""
    held: list[tuple[Key, int | None, str | None]] = []
    everything = principal.everything("report")
    for one in some:
        task = messages.Held(one) if isinstance(one, str) else one
        key = task_key(principal.tenant, check_task_id(task.task_id))
        conditions = (None,) if everything else _beat_conditions(principal, task.task_id)
        held += [(key, task.attempt, condition) for condition in conditions]
    return held


def _beat_conditions(principal: Principal, task_id: str) -> tuple[str | None, ...]:
    """Under which conditions a beat counts: each None for none, or `owner:…`, `kind:…` of the task's row."""
    known = standing(principal, "report", task_id)
    if known is not Standing.ASK:
        return (None,) if known is Standing.YES else ()
    own = (f"owner:{principal.subject}" for _ in principal.over("report", "own"))
    kinds = (f"kind:{name}" for grant in principal.over("report", "kind") for name in grant.names)
    return tuple(dict.fromkeys((*own, *kinds)))


class Scope(Struct, frozen=True):
    """What of a history page's query is asked of the ledger."""

    owner: str | None
    kind: str | None


def listing(principal: Principal, *, owner: str | None, kind: str | None) -> Scope:
    """The query that a principal may ask: as it is, or narrowed to its own tasks. Raises `ProtocolError` `forbidden`.

    Only grants over own tasks, a kind, or all of the tenant list; the sentence never depends on what there is.
    """
    check(principal, "list")
    kinds = [name for grant in principal.over("list", "kind") for name in grant.names]
    if principal.everything("list") or kind in kinds:
        return Scope(owner, kind)
    if not principal.over("list", "own"):
        hint = f"tasks by their kind: ?kind= one of {', '.join(kinds)}" if kinds else "no tasks: it has no kind to list"
        raise ProtocolError("forbidden", f"This token lists {hint}.")
    if owner not in {None, principal.subject}:
        raise ProtocolError("forbidden", "This token lists its own tasks only; leave `owner` out.")
    return Scope(principal.subject, kind)
