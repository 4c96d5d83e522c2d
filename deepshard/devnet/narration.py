"""Telling a person what happens: styled lines and a spinner on a terminal, plain timestamped lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PLAIN_PROGRESS_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Grid:
    """A table for people."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Narrator(Protocol):
    """Where the story goes."""

    def phase(self, title: str) -> None:
        """Begin a phase."""
        ...

    def say(self, text: str) -> None:
        """Tell one event."""
        ...

    def waiting(self, text: str) -> None:
        """Tell how far the present phase is; replaced by the next such text."""
        ...

    def show(self, grid: Grid) -> None:
        """Show a table."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class PlainNarrator:
    """One line per event, with seconds since the start; how far a phase is at most every five seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self._last_waiting = (-PLAIN_PROGRESS_INTERVAL_S, "")

    def _line(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", file=self._stream, flush=True)

    def phase(self, title: str) -> None:
        """Begin a phase."""
        self._line(f"== {title}")

    def say(self, text: str) -> None:
        """Tell one event."""
        self._line(text)

    def waiting(self, text: str) -> None:
        """Tell how far the phase is, unless that was told just now."""
        now = time.monotonic()
        last, said = self._last_waiting
        if text != said and now - last >= PLAIN_PROGRESS_INTERVAL_S:
            self._last_waiting = (now, text)
            self._line(f"... {text}")

    def show(self, grid: Grid) -> None:
        """Print a table as aligned columns."""
        widths = [max(len(row[i]) for row in (grid.columns, *grid.rows)) for i in range(len(grid.columns))]
        print(f"\n{grid.title}", file=self._stream)
        for row in (grid.columns, *grid.rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  " + "  ".join(cells).rstrip(), file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Nothing to restore."""


class RichNarrator:
    """The same with colours, and a spinner that says what is being waited for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._status = console.status("starting", spinner="dots")
        self._status.start()

    def _line(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._start:6.1f} s[/dim]  {text}", highlight=False)

    def phase(self, title: str) -> None:
        """Begin a phase."""
        self._status.update(escape(title))
        self._line(f"[bold cyan]{escape(title)}[/bold cyan]")

    def say(self, text: str) -> None:
        """Tell one event."""
        self._line(f"  {escape(text)}")

    def waiting(self, text: str) -> None:
        """Show how far the phase is, beside the spinner."""
        self._status.update(escape(text))

    def show(self, grid: Grid) -> None:
        """Print a table."""
        table = Table(*(escape(column) for column in grid.columns), title=grid.title, title_justify="left")
        for row in grid.rows:
            table.add_row(*(escape(cell) for cell in row))
        self._console.print(table)

    def close(self) -> None:
        """Stop the spinner."""
        self._status.stop()


def open_narrator(*, plain: bool) -> Narrator:
    """Narrator for standard output."""
    console = Console()
    return PlainNarrator(sys.stdout) if plain or not console.is_terminal else RichNarrator(console)
