"""A page of headings, tables and pictures in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } caption { text-align: left; color: #555; padding-bottom: .4em }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #888; vertical-align: bottom }
tr.rule td { border-top: 2px solid #888 } img { max-width: 100% } h2 { margin-top: 2em } .note { color: #555 }
"""


class Page:
    """Built from top to bottom, then written."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section's heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def items(self, texts: Sequence[str]) -> None:
        """A list."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")

    def table(self, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], ruled: int = 0) -> None:
        """A table; a rule stands above the last ``ruled`` rows."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = []
        for number, row in enumerate(rows):
            rule = ' class="rule"' if ruled and number == len(rows) - ruled else ""
            body.append(f"<tr{rule}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
        self._parts.append(
            f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(body)}</tbody></table>"
        )

    def picture(self, png: bytes, description: str) -> None:
        """A picture, held in the page itself; the description is for those who cannot see it."""
        data = base64.b64encode(png).decode()
        self._parts.append(f'<p><img alt="{escape(description)}" src="data:image/png;base64,{data}"></p>')

    def write(self, path: Path) -> None:
        """Write the file."""
        head = f'<meta charset="utf-8"><title>{escape(self._title)}</title><style>{STYLE}</style>'
        body = "\n".join(self._parts)
        path.write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')
