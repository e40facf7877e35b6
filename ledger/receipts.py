"""Receipts: how a request that is in the ledger is answered. Pure."""

from __future__ import annotations

from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Prior, Receipt, Rejection, Request, State


def repeated(state: State | None, request: Request, prior: Prior) -> Receipt:
    """The answer to a request that is in the ledger already: the first one's place, and how its task stands now."""
    cancel = state.cancel if state is not None else None
    if isinstance(request, CancelRequest):
        if cancel is None or cancel.seq != prior.seq:
            # Another request has been recorded since, which only a refusal of this one allows.
            cancel = Cancel(stage=CancelStage.REFUSED, seq=prior.seq, reason=request.reason)
    elif state is None or state.status is not Status.CANCELLING:
        cancel = None
    return Receipt(
        task_id=request.task_id,
        seq=prior.seq,
        status=prior.status,
        attempt=prior.attempt,
        repeat=True,
        cancel=cancel,
    )


def repeat_of(state: State) -> Receipt:
    """The answer to a request that asks for what is so already."""
    return receipt(state, repeat=True)


def unknown_task(task_id: str) -> Rejection:
    """The answer about a task that nobody has heard of; the same for one that the asker may not know of."""
    return Rejection(
        code="unknown_task",
        message=f"Nobody has created or reported a task {task_id}; the path is right, the id is not known.",
    )


def receipt(state: State, *, repeat: bool = False) -> Receipt:
    """The answer to a change that has brought its task to this state, once it is committed."""
    return Receipt(
        task_id=state.task_id,
        seq=state.seq,
        status=state.status,
        attempt=state.attempt,
        repeat=repeat,
        cancel=state.cancel if state.status is Status.CANCELLING else None,
    )
