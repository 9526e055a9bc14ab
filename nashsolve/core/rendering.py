"""Solutions for people: a table in text, in HTML for notebooks, in LaTeX for papers, and as a DataFrame."""

from __future__ import annotations

from html import escape
from typing import Any

from . import arrays
from .errors import InvalidProblem, MissingExtra
from .status import Status

_MOST = 20
"""Players up to which all are shown."""

_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}


def pandas() -> Any:
    """The package, or the line that installs it."""
    try:
        import pandas as found
    except ImportError as error:
        raise MissingExtra("pandas", "frame", "tables as DataFrames") from error
    return found


def table(s: Any) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of one solution, one row a player: numbers, not text."""
    if not isinstance(s.status, Status):
        raise InvalidProblem("a table shows one problem; pick an item of the batch")
    p = s.problem
    if s.status is Status.NO_AGREEMENT:
        values = arrays.to_numpy(s.certificate)
        return ["player", "certificate y"], [[p.player(i), float(values[i])] for i in range(p.n)]
    d = None if p.disagreement is None else arrays.to_numpy(p.disagreement)
    w = arrays.to_numpy(p.power)
    columns = [arrays.to_numpy(x) for x in (s.utilities, s.gains, s.alpha, s.error_bound)]
    rows = []
    for i in range(p.n):
        utility, gain, alpha, bound = (float(c[i]) for c in columns)
        rows.append([p.player(i), utility, 0.0 if d is None else float(d[i]), gain, float(w[i]), alpha, bound])
    return ["player", "utility", "disagreement", "gain", "weight", "multiplier", "error <="], rows


def to_frame(s: Any) -> Any:
    """A pandas DataFrame, one row a player."""
    header, rows = table(s)
    return pandas().DataFrame([r[1:] for r in rows], index=[r[0] for r in rows], columns=header[1:])


def to_latex(s: Any, digits: int = 4) -> str:
    """A tabular environment, one row a player; needs no package."""
    header, rows = table(s)
    keep = [i for i, name in enumerate(header) if name not in ("multiplier", "error <=")]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(keep) - 1)}}}", r"\hline"]
    lines.append(" & ".join(_plain(header[i]) for i in keep) + r" \\ \hline")
    for row in rows:
        cells = [_plain(row[0])] + [_number(row[i], digits) for i in keep[1:]]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"])


def to_html(s: Any, heading: str) -> str:
    """A small table with the status above and the proof below; every name is escaped."""
    if not isinstance(s.status, Status):
        return f"<pre>{escape(repr(s))}</pre>"
    header, rows = table(s)
    shown = rows if len(rows) <= _MOST else [*rows[:10], ["..."] + [""] * (len(header) - 1), *rows[-3:]]
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in shown)
    title = f"{escape(heading)}: <b>{s.status.name}</b> ({escape(str(s.solver))}, {s.n_iter} iterations)"
    return (
        f"<div><p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>{escape(proof_line(s))}<br>{escape(s.message)}</p></div>"
    )


def proof_line(s: Any) -> str:
    """The certificate numbers that this kind of answer has."""
    parts = []
    for label, value, digits in (("gap", s.gap, 2), ("margin", s.margin, 2), ("backward error", s.backward_error, 1)):
        number = float(value)
        if number == number and abs(number) != float("inf"):
            parts.append(f"{label} {number:.{digits}e}")
    return "   ".join(parts)


def _cell(value: Any) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.6g}"


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}" if value == value else "--"
    return f"${text}$" if text.startswith("-") and text != "--" else text


def _plain(text: str) -> str:
    return "".join(_LATEX.get(c, r"\textbackslash{}" if c == "\\" else c) for c in text)
