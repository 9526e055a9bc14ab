"""The ideal point: the best that each player could get alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem, SolverFailed

from .base import Bargain, support_at

KINDS = ("rational", "global")


def ideal_point(bargain: Bargain, kind: str = "rational") -> Any:
    """(n,) largest utility of each player; where all others keep their disagreement utility, or anywhere ("global").

    Raises InvalidProblem for an unknown kind, and SolverFailed where a maximum is not certified.
    """
    if kind not in KINDS:
        raise InvalidProblem(f"ideal is {kind!r}; choose one of {', '.join(KINDS)}")
    d, oracle = bargain.disagreement, bargain.oracle
    floor = d if kind == "rational" else None
    best = np.empty(bargain.n)
    for i in range(bargain.n):
        e = np.zeros(bargain.n)
        e[i] = 1.0
        found = oracle.linear(e, floor)
        y = np.maximum(found.multipliers, e)
        upper = support_at(bargain, y, found) - (float((y - e) @ d) if floor is not None else 0.0)
        best[i] = found.utilities[i]
        if not upper - best[i] <= 1e3 * oracle.rtol * max(abs(upper), abs(best[i] - d[i]), 1e-300):
            raise SolverFailed(
                f"the ideal utility of {bargain.problem.player(i)} is not certified: "
                f"between {best[i]:.6g} and {upper:.6g}"
            )
    return best
