"""The live view of `ledgerwire watch`, drawn with rich: two lines per task, colours of the terminal's own palette.

Every colour has a word or a sign beside it, so nothing is lost without colours; and only the palette's named colours
are used, so it can be read on dark and on light.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ledgerwire.cli.options import clean
from ledgerwire.cli.row import Row
from ledgerwire.model import Change, Status, WorkerLiveness
from ledgerwire.watcher import Watcher

_SIGNS: Final = {
    Status.PENDING: ("·", "default"),
    Status.RUNNING: ("▸", "cyan"),
    Status.CANCELLING: ("▸", "yellow"),
    Status.COMPLETED: ("✓", "green"),
    Status.FAILED: ("✗", "red"),
    Status.CANCELLED: ("–", "yellow"),
    Status.LOST: ("✗", "magenta"),
}
_STATUS_WIDTH: Final = 10
_BAR_WIDTH: Final = 24
_NARROW: Final = 70
"""Columns; below, the bar is half as long."""
_LINES_AROUND: Final = 4
REFRESH_PER_SECOND: Final = 8


class View:
    """The tasks as they are now."""

    def __init__(self, url: str, watcher: Watcher, rows: Sequence[Row], console: Console) -> None:
        self._url = url.partition("?")[0]
        self._watcher = watcher
        self._rows = rows
        self._console = console
        self.over = False

    def change(self, row: Row, change: Change) -> None:
        """The next drawing shows it."""

    def liveness(self, row: Row, worker: WorkerLiveness) -> None:
        """The next drawing shows it."""

    def unknown(self, row: Row) -> None:
        """The next drawing shows it."""

    def render(self) -> RenderableType:
        """All tasks, or as many as there is room for: those at work first."""
        room = len(self._rows)
        if not self.over:
            room = max(1, (self._console.height - _LINES_AROUND) // 2)
        shown = list(self._rows) if len(self._rows) <= room else sorted(self._rows, key=lambda row: row.ended)[:room]
        parts: list[RenderableType] = []
        for row in shown:
            parts += [self._first_line(row), self._second_line(row)]
        if hidden := len(self._rows) - len(shown):
            parts.append(Text(f"  … and {hidden} more", style="dim"))
        if not self.over:
            parts.append(self._footer())
        return Group(*parts)

    def _first_line(self, row: Row) -> RenderableType:
        if row.unknown:
            sign, colour, status = "?", "magenta", "unknown"
        elif row.status is None:
            sign, colour, status = "·", "default", "waiting"
        else:
            (sign, colour), status = _SIGNS[row.status], row.status.value
        if row.silence:
            sign, colour = "!", "yellow"
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=1)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        line.add_column(width=_STATUS_WIDTH, no_wrap=True)
        line.add_column(width=_BAR_WIDTH if self._console.width >= _NARROW else _BAR_WIDTH // 2)
        line.add_column(width=5, justify="right", no_wrap=True)
        bar: RenderableType = ""
        if row.progress is not None:
            bar = ProgressBar(
                total=100, completed=row.progress, style="bright_black", complete_style=colour, finished_style=colour
            )
        name = Text(clean(row.task_id), style="bold")
        line.add_row(Text(sign, style=colour), name, Text(status, style=colour), bar, row.percent)
        return line

    def _second_line(self, row: Row) -> RenderableType:
        text = Text("  ", no_wrap=True, overflow="ellipsis")
        for number, remark in enumerate(row.remarks):
            text.append(" · " if number else "", style="dim")
            first = "yellow" if row.silence else "default"
            text.append(remark, style="dim" if number else first)
        return text

    def _footer(self) -> RenderableType:
        if self._watcher.connected:
            state = "stale: the gateway cannot reach its database" if self._watcher.degraded else "connected"
        else:
            state = "polling, no socket comes through" if self._watcher.polling else "no connection yet, trying"
        ended = sum(row.ended for row in self._rows)
        text = f"{ended} of {len(self._rows)} ended · {state} · Ctrl-C leaves, the tasks go on · {self._url}"
        style = "dim" if state == "connected" else "yellow"
        return Text(text, style=style, no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def live(url: str, watcher: Watcher, rows: Sequence[Row], console: Console | None = None) -> Iterator[View]:
    """Draw the view until the block is left; the last state stays on the screen."""
    console = console or Console(highlight=False)
    view = View(url, watcher, rows, console)
    drawing = Live(
        get_renderable=view.render, console=console, refresh_per_second=REFRESH_PER_SECOND, vertical_overflow="visible"
    )
    with drawing:
        try:
            yield view
        finally:
            view.over = True
