"""The paper's own numbers, as ``reported.yaml`` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nashsolve.core.errors import InvalidProblem

from ..checkpoints.strict_yaml import load_file
from ..torch_moe.strict import Strict, nearest


class Reported(Strict):
    """One table of the paper.

    Attributes
    ----------
    title : what it is about
    keys : so many columns at the left name a row
    columns : their names
    rows : texts as printed, mean and deviation as "82.94±.20"
    """

    title: str
    keys: int
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@cache
def reported_tables() -> dict[str, Reported]:
    """Every table: "table_1" and so on."""
    found = load_file(Path(__file__).with_name("reported.yaml"))
    return {name: Reported(**values) for name, values in found.items()}


def reported_value(table: str, column: str, *row: str) -> str | None:
    """A printed cell; None where the table has no such row.

    Raises
    ------
    InvalidProblem
        For a table or column that does not exist, with the nearest name.
    """
    tables = reported_tables()
    if table not in tables:
        raise InvalidProblem(f"table is {table!r}; {nearest(table, list(tables))}")
    found = tables[table]
    if column not in found.columns:
        raise InvalidProblem(f"{table} has no column {column!r}; {nearest(column, list(found.columns))}")
    wanted = [_bare(cell) for cell in row]
    for cells in found.rows:
        if [_bare(cell) for cell in cells[: found.keys]] == wanted:
            return cells[found.columns.index(column)]
    return None


def _bare(text: str) -> str:
    return text.replace(" ", "").lower()
