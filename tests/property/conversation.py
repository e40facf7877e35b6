"""The requests to one task, decided one after the other, with everything in the ledger found."""

from __future__ import annotations

from ledger.decide import decide
from ledger.model import Change, Prior, Receipt, Rejection, Request, State
from tests.property.document_model import name_of


class Conversation:
    """Requests to one task, decided as the ledger would, with every prior found."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.changes: list[Change] = []
        self.priors: dict[object, Prior] = {}

    def ask(self, request: Request, digest: str) -> Change | Receipt | Rejection:
        """Decide, and append what is to be appended."""
        name = name_of(request)
        decision = decide(self.state, request, self.priors.get(name))
        if isinstance(decision, Change):
            self.state = decision.state
            self.changes.append(decision)
            if name is not None:
                state = decision.state
                self.priors[name] = Prior(seq=state.seq, status=state.status, attempt=state.attempt, digest=digest)
        return decision
