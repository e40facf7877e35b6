"""The audit log: who has asked for what, and what came of it. One line `audit` each; never a payload or a token.

Creates, cancels, and all that changes who may do what. Reports are not among them: the ledger itself is their record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from gateway.principal import Principal
from gateway.protocol.session import Session
from ledger.batch import Outcome
from ledger.model import Create, Receipt, Request

log = structlog.get_logger(__name__)

CREATE: Final = "create"
CANCEL: Final = "cancel"


def note(action: str, outcome: str, principal: Principal | None, **facts: object) -> None:
    """Write a line. `outcome` is `done`, `repeat`, or the code of the refusal; `facts` name what it was about."""
    who = (
        {}
        if principal is None
        else {
            "tenant": principal.tenant,
            "subject": principal.subject,
            "token_id": principal.token_id,
            "issuer": principal.issuer,
        }
    )
    log.info("audit", action=action, outcome=outcome, **who, **facts)


def note_outcome(principal: Principal | None, request: Request, outcome: Outcome) -> None:
    """Write down what came of a create or a cancel."""
    if isinstance(outcome, Receipt):
        word, seq = ("repeat" if outcome.repeat else "done"), outcome.seq
    else:
        word, seq = outcome.code, None
    action = CREATE if isinstance(request, Create) else CANCEL
    note(action, word, principal, task_id=request.task_id, seq=seq)


def audited(session: Session, request: Request, tell: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    """As `tell`, and the outcome is in the audit log before."""
    principal = None if session.rights is None else session.rights.principal

    def told(outcome: Outcome) -> None:
        note_outcome(principal, request, outcome)
        tell(outcome)

    return told
