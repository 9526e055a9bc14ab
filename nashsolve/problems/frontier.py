"""Two players whose feasible set is known by its frontier: a function, or points on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

from .convex import ConvexBargainingProblem
from .domains import box
from .family import Family
from .outcomes import OutcomeBargainingProblem


def frontier(
    curve: Any,
    span: tuple[float, float] | None = None,
    *,
    disagreement: Any = None,
    weights: Any = None,
    names: Sequence[str] | None = None,
) -> Family:
    """A problem of two players from its frontier.

    Parameters
    ----------
    curve : function, or (K, 2) points
        Most utility of player 1 for every utility of player 0: concave and smooth, written as utilities of
        ConvexBargainingProblem are. Or points on the frontier, whose convex hull is taken.
    span : (lowest, highest) utility of player 0; needed for a function
    disagreement, weights, names : as everywhere

    Examples
    --------
    >>> import nashsolve as ns
    >>> circle = ns.frontier(lambda u: (1 - u**2) ** 0.5, span=(0.0, 1.0), weights=[3.0, 1.0])
    >>> print(ns.solve(circle).utilities.round(6))
    [0.866025 0.5     ]
    """
    if not callable(curve):
        if span is not None:
            raise InvalidProblem("span belongs to a function; points have a span of their own")
        points = np.asarray(curve, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise InvalidProblem(f"curve has shape {points.shape}; a function or (K, 2) points are needed")
        return OutcomeBargainingProblem(points, weights=weights, disagreement=disagreement, names=names)
    if span is None or len(span) != 2 or not np.isfinite(span).all() or not span[0] < span[1]:
        raise InvalidProblem(f"span is {span!r}; the lowest and the highest utility of player 0 are needed")
    return ConvexBargainingProblem(
        utilities=[lambda x: x[0], lambda x: curve(x[0])],
        constraints=box([span[0]], [span[1]]),
        disagreement=disagreement,
        weights=weights,
        names=names,
    )
