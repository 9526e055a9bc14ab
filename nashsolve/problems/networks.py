"""Proportional fairness: flows share the links of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.validation import check_positive

from .convex import ConvexBargainingProblem
from .domains import polytope
from .family import read_vector, refuse


def network(
    routing: Any, capacity: Any, *, weights: Any = None, names: Sequence[str] | None = None
) -> ConvexBargainingProblem:
    r"""Rates of flows that share links; the Nash solution is the proportionally fair allocation.

    .. math:: \max \sum_i w_i \log x_i, \quad R x \le c,\ x \ge 0

    `solution.point` are the rates; `solution.details["link_prices"]` what a unit of each link is worth (Nash and
    alpha-fair solutions). At the optimum a flow's rate is its weight over the price of its route.

    Parameters
    ----------
    routing : (links, flows) >= 0
        One where a flow uses a link.
    capacity : (links,) positive, or one number for all
    weights : (flows,) positive, optional
    names : of the flows, optional

    Notes
    -----
    [kelly_maulloo_tan1998]_

    Examples
    --------
    >>> import nashsolve as ns
    >>> line = ns.solve(ns.network([[1, 1, 0], [1, 0, 1]], capacity=1.0))   # one long flow, two short ones
    >>> print(line.utilities.round(6), line.details["link_prices"].round(6))
    [0.333333 0.666667 0.666667] [1.5 1.5]
    """
    rows, _ = arrays.as_float64(routing, "routing", np)
    if rows.ndim != 2 or 0 in rows.shape:
        raise InvalidProblem(f"routing has shape {tuple(rows.shape)}; (links, flows) is needed")
    refuse(check_positive(rows, "routing", np, 2, strict=False))
    size = np.ndim(capacity) and len(rows)
    given = read_vector(capacity, "capacity", len(rows), None, 1.0) if size else np.full(len(rows), float(capacity))
    refuse(check_positive(given, "capacity", np, 1))
    free = np.flatnonzero(rows.max(axis=0) == 0)
    if len(free):
        raise InvalidProblem(f"flow {free[0]} uses no link, so its rate has no bound; give it a link of its own")

    def describe(point: Any, duals: Any) -> dict[str, Any]:
        return {} if duals is None else {"link_prices": duals.matrix}

    return ConvexBargainingProblem(
        utilities=np.eye(rows.shape[1]),
        constraints=polytope(rows, given, nonnegative=True),
        weights=weights,
        names=names,
        describe=describe,
    )
