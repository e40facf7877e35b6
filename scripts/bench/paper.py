"""Figures on paper: medians over runs, a table for people, JSON for machines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


def plain(value: object) -> Any:
    """Structs as dictionaries, all the way down."""
    return msgspec.to_builtins(value)


def median(runs: Sequence[Any]) -> Any:
    """Of several results of one shape: each number's median over the runs, and the first run's words.

    Where a run lacks what the first one has (a server that did not start), the rest decide.
    """
    first = runs[0]
    if isinstance(first, dict):
        return {name: median([run[name] for run in runs if isinstance(run, dict) and name in run]) for name in first}
    if isinstance(first, list):
        same = [run for run in runs if isinstance(run, list) and len(run) == len(first)]
        return [median(list(values)) for values in zip(*same, strict=True)]
    numbers = [run for run in runs if isinstance(run, int | float) and not isinstance(run, bool)]
    if isinstance(first, bool) or not numbers:
        return first
    return statistics.median(numbers)


def write_json(path: Path | None, content: object) -> None:
    """Write everything, runs and medians, where a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(plain(content), indent=1) + "\n", "utf-8")


class Paper:
    """Prints tables; a column of figures is aligned to the right."""

    def __init__(self) -> None:
        self._console = Console(width=None if Console().is_terminal else 140, highlight=False)

    def say(self, sentence: str) -> None:
        """A line of text."""
        self._console.print(sentence, markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table whose first column is of words and whose others are of figures."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for place, name in enumerate(columns):
            table.add_column(name, justify="right" if place else "left", no_wrap=place == 0)
        for row in rows:
            table.add_row(*(figure(cell) for cell in row))
        self._console.print(table)


def figure(value: object) -> str:
    """A figure as a person reads it: 52,310 · 17.3 · 0.41 · – for none."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
    return str(value)


def ratio(a: float, b: float) -> str:
    """How often b goes into a, as `1.25x`; – for nothing."""
    return f"{a / b:.2f}x" if b else "–"
