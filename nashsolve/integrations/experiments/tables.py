"""Tables of a report: systems beside each other, with paired differences and the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .reported import reported_value
from .statistics import by_system, compare, mean_sd
from .systems import title


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes
    ----------
    caption : one sentence
    header, rows : texts
    note : below the table
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a table of Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        return f"{self.caption}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


@dataclass(frozen=True)
class Metric:
    """One column of a comparison.

    Attributes
    ----------
    key : in the records
    name : for people, with the unit
    better : "lower" or "higher"
    digits : behind the point
    paper : (table, column) of the paper's numbers for the same system, or None
    """

    key: str
    name: str
    better: str
    digits: int = 3
    paper: tuple[str, str] | None = None
    paper_rows: Mapping[str, str] = field(default_factory=dict)


def comparison(
    records: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], reference: str, caption: str, of: str = "system"
) -> Table:
    """Mean and standard deviation of every system, and its paired difference from a reference with a 95 % interval.

    Parameters
    ----------
    records : with the keys `of`, "seed", and those of the metrics
    metrics : the columns
    reference : the system that others are compared with
    caption : of the table
    of : key of what is compared
    """
    header = [of]
    for metric in metrics:
        header += [f"{metric.name} ({metric.better} is better)", f"minus {title(reference)}, 95 % interval"]
        header += ["paper"] if metric.paper else []
    tables = {metric.key: by_system(records, metric.key, of) for metric in metrics}
    systems = list(dict.fromkeys(name for table in tables.values() for name in table))
    rows = []
    for system in systems:
        row = [title(system)]
        for metric in metrics:
            row += _cells(tables[metric.key], metric, system, reference)
        rows.append(row)
    seeds = max((len(values) for table in tables.values() for values in table.values()), default=0)
    note = f"Mean ± standard deviation over {seeds} seeds. Bold differences have an interval without zero."
    return Table(caption, header, rows, note)


def _cells(table: Mapping[str, Mapping[int, float]], metric: Metric, system: str, reference: str) -> list[str]:
    values = list(table.get(system, {}).values())
    if not values:
        cells = ["", ""]
    else:
        mean, sd = mean_sd(values)
        difference = "" if system == reference else _difference(table, system, reference, metric.digits)
        cells = [f"{mean:.{metric.digits}f} ± {sd:.{metric.digits}f}", difference]
    if metric.paper:
        cells.append(reported_value(*metric.paper, metric.paper_rows.get(system, title(system))) or "")
    return cells


def _difference(table: Mapping[str, Mapping[int, float]], system: str, reference: str, digits: int) -> str:
    found = compare(table, system, reference)
    if found is None:
        return ""
    text = f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return text if found.noise else f"**{text}**"
