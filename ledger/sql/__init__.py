"""The ledger's SQL, each statement in a named file under `queries/`."""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return (files(__name__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")
