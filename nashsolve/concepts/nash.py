r"""The Nash solution, asymmetric with weights: the maximizer of :math:`\sum_i w_i \log(u_i - d_i)`.

[nash1950]_, [harsanyi_selten1972]_, [kalai1977nonsymmetric]_
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nashsolve.core.support import certify_fair

from . import single
from .base import Agreement, Bargain, no_agreement, numpy_view, support_at


def agree(bargain: Bargain) -> Agreement:
    """Certified by the support function in the direction ``w / gains``."""
    return agree_fair(bargain, 1.0)


def welfare(gains: Any, weights: Any, aversion: float) -> Any:
    """``sum w g**(1 - a) / (1 - a)``, the log for a = 1, over the last axis."""
    terms = np.log(gains) if aversion == 1 else gains ** (1 - aversion) / (1 - aversion)
    return terms @ weights


def agree_fair(bargain: Bargain, aversion: float) -> Agreement:
    """Maximize alpha-fair welfare; where nobody can, prove that."""
    w, d, oracle = bargain.weights, bargain.disagreement, bargain.oracle
    if bargain.single:
        return single.agree(bargain, lambda gains: welfare(gains, w, aversion))
    found = oracle.fair(w, d, aversion)
    gains = found.utilities - d
    gain = float(gains.min()) > 0
    if found.stopped == "blocked" or not gain:
        none = no_agreement(bargain)
        if none is not None:
            return none
    slope = w / gains if aversion == 1 else w * gains**-aversion
    support = support_at(bargain, slope, found) if gain and math.isfinite(slope.sum()) else np.inf
    proof = certify_fair(numpy_view(bargain.problem), found.utilities, support, aversion, found.point)
    if not float(proof.error_bound.max()) <= 1e3 * oracle.rtol:
        none = no_agreement(bargain)
        if none is not None:
            return none
    return Agreement(found, proof)
