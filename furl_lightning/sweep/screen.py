"""What furl-sweep shows while it runs: a table that follows the trials, or a line for each change of state."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from furl_lightning.sweep.ledger import Ledger, TrialState
from furl_lightning.utils.text_table import RULES, text_table

HEADER = ("trial", "state", "env steps", "attempts", "node, last failure")
ORDER = ("running", "failed", "waiting", "finished")
"""From top to bottom: the bottom is cut off where the terminal is too low."""


class Screen:
    """A context that shows a ledger: on a terminal in place, elsewhere line by line; the table is left behind.

    Args:
        title: the sweep's name.
        ledger: is read at each :meth:`show`.
    """

    def __init__(self, title: str, ledger: Ledger) -> None:
        self.title, self.ledger = title, ledger
        console = Console(markup=False, emoji=False, highlight=False)
        self._live: Live | None = None
        if sys.stdout.isatty() and console.is_interactive:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = {name: ("waiting", entry.attempts) for name, entry in ledger.states.items()}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update("", refresh=True)
            self._live.stop()
        rows = [[*_cells(name, entry), _place(entry)] for name, entry in self._entries()]
        print(text_table(HEADER, rows, self._heading()), flush=True)

    def show(self) -> None:
        """Show how the trials stand."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for name, entry in self.ledger.states.items():
            if self._shown[name] != (entry.state, entry.attempts):
                clock = time.strftime("%H:%M:%S")
                print(f"{clock}  {name}  {_words(entry)}  [{self.ledger.counts()}]", flush=True)
                self._shown[name] = (entry.state, entry.attempts)

    def _table(self) -> Table:
        table = Table(title=self._heading(), title_justify="left", title_style="", box=RULES, show_edge=False)
        for name in HEADER[:-1]:
            table.add_column(name, justify="right" if name in ("env steps", "attempts") else "left", no_wrap=True)
        table.add_column(HEADER[-1])  # the one that is cut off where the terminal is too narrow
        for name, entry in self._entries():
            table.add_row(*_cells(name, entry), Text(_place(entry), no_wrap=True, overflow="ellipsis"))
        return table

    def _heading(self) -> str:
        return f"{self.title}: {self.ledger.counts()}"

    def _entries(self) -> list[tuple[str, TrialState]]:
        return sorted(self.ledger.states.items(), key=lambda item: ORDER.index(item[1].state))


def _cells(name: str, entry: TrialState) -> list[str]:
    return [name, entry.state, f"{entry.env_steps:,}", str(entry.attempts)]


def _place(entry: TrialState) -> str:
    """Where it runs or ran, and what ended the last attempt that failed."""
    if entry.state == "failed":
        return entry.why
    return "; before: ".join(part for part in (entry.node, entry.why) if part)


def _words(entry: TrialState) -> str:
    if entry.state == "running":
        return f"running on {entry.node}" + (f", attempt {entry.attempts}" if entry.attempts > 1 else "")
    return f"{entry.state}: {entry.why}" if entry.why and entry.state != "finished" else entry.state
