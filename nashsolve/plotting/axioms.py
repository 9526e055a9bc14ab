"""Which concept breaks which axiom, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nashsolve.core.errors import InvalidProblem

from .figure import OKABE_ITO, new_axes

_WORDS = {True: "holds", False: "fails", None: "—"}
_COLOURS = {True: "white", False: OKABE_ITO[1], None: "0.92"}


def plot_axioms(reports: Sequence[Any], *, ax: Any = None) -> Any:
    """One row a concept, one column an axiom: holds, fails (with a counter-example), or says nothing here.

    Parameters
    ----------
    reports : what `nashsolve.axioms.check` returns, for several concepts with the same axioms
    ax : Axes to draw into, a new one by default

    Raises
    ------
    InvalidProblem, MissingExtra
    """
    if not reports:
        raise InvalidProblem("reports is empty; give what axioms.check returns")
    names = [f.axiom for f in reports[0].findings]
    if any([f.axiom for f in r.findings] != names for r in reports):
        raise InvalidProblem("the reports speak of different axioms")
    ax = new_axes(ax, (1.6 + 1.15 * len(names), 0.9 + 0.42 * len(reports)))
    for i, report in enumerate(reports):
        for j, finding in enumerate(report.findings):
            edge = {"facecolor": _COLOURS[finding.holds], "edgecolor": "0.6", "linewidth": 0.8}
            hatch = "///" if finding.holds is False else None
            ax.bar(j, 1.0, 1.0, bottom=i - 0.5, hatch=hatch, **edge)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if finding.holds is False else None
            ax.text(j, i, _WORDS[finding.holds], ha="center", va="center", fontsize=9, bbox=box)
    ax.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=9)
    ax.set_yticks(range(len(reports)), [r.concept.replace("_", " ") for r in reports], fontsize=9)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(len(reports) - 0.5, -0.5)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
