"""Who somebody is, and what they may: a tenant, a subject, and grants. Pure; every door and every session asks here.

A grant is verbs over tasks, in words `verbs:over`, as they stand in a token's claim (docs/security.md):

    watch,cancel:own          tasks whose `owner` is the subject
    watch:id=a,b              these tasks
    report,create:prefix=imp- tasks whose id begins so
    watch,list:kind=import    tasks of this kind
    *:all                     all verbs over all tasks of the tenant

Some can be judged by the id alone; `own` and `kind` need the task's row, as it is when it is read.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Literal, get_args

from msgspec import Struct

from ledger.model import TASK_ID, Facts

Verb = Literal["watch", "cancel", "report", "create", "list", "admin"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
GRANTS: Final = 64
"""Grants of one principal: each is looked at for each question."""
LISTED_IDS: Final = 200
"""Ids in one grant; who needs more has an owner, a prefix or a kind in common."""
NAME_CHARACTERS: Final = 128
"""Of a kind or a prefix, as in the ledger."""


class GrantError(ValueError):
    """A grant is not one; the sentence shows how it is written."""


class Standing(enum.Enum):
    """What is known of a wish by the id alone."""

    YES = "yes"
    NO = "no"
    ASK = "ask"
    """It depends on the task's row."""


class Grant(Struct, frozen=True, kw_only=True):
    """Verbs over some tasks. `names` are ids, one prefix or one kind; empty for `own` and `all`."""

    verbs: frozenset[Verb]
    over: Literal["own", "id", "prefix", "kind", "all"]
    names: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """As it is written."""
        verbs = "*" if len(self.verbs) == len(VERBS) else ",".join(verb for verb in VERBS if verb in self.verbs)
        return f"{verbs}:{self.over}" + (f"={','.join(self.names)}" if self.names else "")


def parse_grant(words: str) -> Grant:
    """Read one grant. Raises `GrantError`."""
    written, colon, over = words.partition(":")
    verbs = VERBS if written == "*" else tuple(verb for verb in VERBS if verb in written.split(","))
    if not colon or not verbs or (written != "*" and len(verbs) != len(written.split(","))):
        raise GrantError(f"A grant begins with verbs ({', '.join(VERBS)} or *) and a colon, as in watch,cancel:own.")
    kind, equals, named = over.partition("=")
    if over in {"own", "all"}:
        return Grant(verbs=frozenset(verbs), over="own" if over == "own" else "all")
    if equals and kind == "id":
        ids = tuple(named.split(","))
        if len(ids) <= LISTED_IDS and all(TASK_ID.fullmatch(each) for each in ids):
            return Grant(verbs=frozenset(verbs), over="id", names=ids)
    # What PostgreSQL cannot hold must not get into a statement that is about others, too.
    if equals and kind in {"prefix", "kind"} and 1 <= len(named) <= NAME_CHARACTERS and named.isprintable():
        return Grant(verbs=frozenset(verbs), over="prefix" if kind == "prefix" else "kind", names=(named,))
    raise GrantError(
        f"After the colon of a grant comes own, all, id=… (up to {LISTED_IDS} task ids with commas), prefix=… or kind=…"
    )


def parse_grants(words: Sequence[str]) -> tuple[Grant, ...]:
    """Read the grants of a principal. Raises `GrantError`."""
    if len(words) > GRANTS:
        raise GrantError(f"A principal may have {GRANTS} grants.")
    return tuple(parse_grant(each) for each in words)


EVERYTHING: Final = parse_grants(["*:all"])
"""A server of the tenant: an API key, or a line of a token file."""
OWN: Final = parse_grants(["watch,cancel,list:own"])
"""A user: what a token without a grants claim may."""


class Principal(Struct, frozen=True, kw_only=True):
    """Who is connected. Only tasks of `tenant` exist for it, and of those only what the grants allow.

    `expires_at` is seconds since 1970; None: never by itself. `token_id` names what was shown, for logs and revocation;
    `issuer` says who vouched for it: the `iss` of a token, else None.
    """

    tenant: str
    subject: str
    grants: tuple[Grant, ...]
    expires_at: float | None = None
    token_id: str | None = None
    issuer: str | None = None

    def everything(self, verb: Verb) -> bool:
        """Whether it may do this to all tasks of its tenant, so that nothing else need be asked."""
        return any(grant.over == "all" and verb in grant.verbs for grant in self.grants)

    def has(self, verb: Verb) -> bool:
        """Whether it may do this at all, to whatever task."""
        return any(verb in grant.verbs for grant in self.grants)

    def over(self, verb: Verb, over: Literal["own", "kind"]) -> Sequence[Grant]:
        """The grants of this verb over own tasks, or over kinds."""
        return [grant for grant in self.grants if grant.over == over and verb in grant.verbs]


def standing(principal: Principal, verb: Verb, task_id: str) -> Standing:
    """What the id alone says."""
    known = Standing.NO
    for grant in principal.grants:
        if verb not in grant.verbs:
            continue
        if (
            grant.over == "all"
            or (grant.over == "id" and task_id in grant.names)
            or (grant.over == "prefix" and task_id.startswith(grant.names))
        ):
            return Standing.YES
        if grant.over in {"own", "kind"}:
            known = Standing.ASK
    return known


def hopeless(principal: Principal, verb: Verb, task_id: str, facts: Facts | None) -> bool:
    """Whether `may` is false for ever: what it depends on is set once, and is."""
    known = standing(principal, verb, task_id)
    if known is not Standing.ASK or facts is None:
        return known is Standing.NO
    if facts.owner is None and principal.over(verb, "own"):
        return False
    if facts.kind is None and principal.over(verb, "kind"):
        return False
    return not may(principal, verb, task_id, facts)


def may(principal: Principal, verb: Verb, task_id: str, facts: Facts | None) -> bool:
    """Whether the principal may do this to a task of its tenant. `facts` None: nobody has heard of the task."""
    known = standing(principal, verb, task_id)
    if known is not Standing.ASK or facts is None:
        return known is Standing.YES
    return any(
        facts.owner == principal.subject if grant.over == "own" else facts.kind in grant.names
        for grant in principal.grants
        if verb in grant.verbs and grant.over in {"own", "kind"}
    )
