r"""The largest weighted sum of utilities; it depends on the units in which players measure.

.. math:: \max \sum_i w_i u_i
"""

from __future__ import annotations

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.core.support import certify_value

from . import single
from .base import Agreement, Bargain, no_agreement, numpy_view, support_at


def agree(bargain: Bargain, rational: bool = False) -> Agreement:
    """rational : nobody may get less than the disagreement point; otherwise some players may lose."""
    w, d, oracle = bargain.weights, bargain.disagreement, bargain.oracle
    if bargain.single:
        if rational:
            return single.agree(bargain, lambda gains: gains @ w)
        return single.agree(bargain, lambda gains: (gains + d) @ w, needs_gains=False)
    found = oracle.linear(w, d if rational else None)
    if found.stopped in ("infeasible", "unbounded", "blocked"):
        none = no_agreement(bargain) if rational else None
        if none is None:
            raise InvalidProblem(f"the feasible set is {'unbounded' if found.stopped == 'unbounded' else 'empty'}")
        return none
    y = np.maximum(found.multipliers, w)
    value = float(w @ found.utilities)
    upper = support_at(bargain, y, found) - (float((y - w) @ d) if rational else 0.0)
    return Agreement(found, certify_value(numpy_view(bargain.problem), found.utilities, y, value, upper, found.point))
