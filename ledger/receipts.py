"""Receipts: how a request that is in the ledger is answered. Pure."""

from __future__ import annotations

from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Change, Prior, Receipt, Request, State


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


def receipt(change: Change) -> Receipt:
    """The answer to a change once it is committed."""
    return _receipt_of(change.state, repeat=False)


def repeat_of(state: State) -> Receipt:
    """The answer to a request that asks for what is so already."""
    return _receipt_of(state, repeat=True)


def _receipt_of(state: State, *, repeat: bool) -> Receipt:
    return Receipt(
        task_id=state.task_id,
        seq=state.seq,
        status=state.status,
        attempt=state.attempt,
        repeat=repeat,
        cancel=state.cancel if state.status is Status.CANCELLING else None,
    )
