"""Tables for people, by rich; nothing in a cell is read as markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nashsolve.crosscheck import CrossCheck

_PLAIN_WIDTH = 140
"""Columns when the output is a file or a pipe, whose width nobody knows."""

_REFUSAL = " cannot take this problem: "
"""What solve() says before the reason; the row already names the solver."""


def console() -> Console:
    """Standard output, wide enough in pipes."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=_PLAIN_WIDTH)


def show(rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Header and rows."""
    table = Table(title=title or None, title_justify="left")
    for head in rows[0]:
        table.add_column(Text(head))
    for row in rows[1:]:
        table.add_row(*[Text(cell) for cell in row])
    console().print(table)


def show_crosscheck(result: CrossCheck, title: str = "") -> None:
    """The table of a crosscheck and its verdict."""
    rows = [[*row[:-1], row[-1].partition(_REFUSAL)[2] or row[-1]] for row in result.table()]
    show(rows, title)
    console().print(result.verdict)
