"""Tables for a terminal or a log file."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import HORIZONTALS, Box
from rich.console import Console
from rich.table import Table

RULES = Box(str(HORIZONTALS).replace("─", "-"), ascii=True)
"""A rule under the header and between sections, in characters that every terminal has."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, ruled: int = 0) -> str:
    """A table as plain text, as wide as its cells are: nothing is wrapped, cut, coloured or read as markup.

    Args:
        header: names of the columns; the first stands on the left, the others on the right.
        rows: cells, as many in each row as there are columns.
        title: a line above.
        ruled: a rule stands above the last so many rows.
    """
    table = Table(box=RULES, show_edge=False, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for number, row in enumerate(rows):
        if ruled and number == len(rows) - ruled:
            table.add_section()
        table.add_row(*row)
    file = io.StringIO()
    console = Console(
        file=file, width=100_000, color_system=None, force_jupyter=False, markup=False, emoji=False, highlight=False
    )
    console.print(table)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join(lines if title is None else [title, *lines])
