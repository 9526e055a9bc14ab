r"""The equal-area solution of two players: the line from d to the agreement halves what both could gain.

With the frontier f and the ideal gain of player 0 up to I, the agreement (x, f(x)) solves

.. math:: 2 \int_{d_0}^{x} (f - d_1) - \int_{d_0}^{I} (f - d_1) = (x - d_0)(f(x) - d_1)

[anbarci_bigelow1994]_
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

from nashsolve.core.support import certify_value

from .base import Agreement, Bargain, no_agreement, numpy_view, refuse_more_than_two
from .edge import Edge, finished


def agree(bargain: Bargain) -> Agreement:
    """Areas are exact for tables of outcomes and by adaptive quadrature elsewhere."""
    refuse_more_than_two(bargain, "equal_area")
    none = no_agreement(bargain)
    if none is not None:
        return none
    edge, d = Edge(bargain), bargain.disagreement
    far = float(edge.ideal(d)[0])
    whole = _area(edge, d, d[0], far)
    known = {float(d[0]): 0.0}

    def difference(x: float) -> float:
        nearest = min(known, key=lambda at: abs(at - x))
        known[x] = known[nearest] + _area(edge, d, nearest, x)
        return 2 * known[x] - whole - (x - d[0]) * (edge.most(1, x) - d[1])

    x = brentq(difference, float(d[0]), far, xtol=1e-14 * max(abs(far), abs(d[0])), rtol=1e-14)
    found = finished(edge.agreement(float(x)), "equal_area")
    y, beyond = edge.judge(found)
    value = float(y @ found.utilities)
    view = numpy_view(bargain.problem)
    proof = certify_value(view, found.utilities, y, value, value + max(beyond, 0.0), found.point)
    triangle = 0.5 * (x - d[0]) * (edge.most(1, x) - d[1])
    areas = {"area_above": known[x] - triangle, "area_below": whole - known[x] + triangle}
    return Agreement(found, proof, areas)


def _smooth_area(height: Any, start: float, end: float) -> float:
    """Gauss' rule, in a variable that tames a vertical end; adaptive where two rules disagree."""
    if start == end:
        return 0.0
    values = []
    for nodes in (12, 16):
        s, weight = np.polynomial.legendre.leggauss(nodes)
        s = (s + 1) / 2
        heights = np.array([height(end + (start - end) * v * v) for v in s])
        values.append(float((weight * s) @ heights) * (end - start))
    if abs(values[0] - values[1]) <= 1e-9 * abs(values[1]):
        return values[1]
    return float(quad(height, start, end, epsabs=1e-10, epsrel=1e-8, limit=40)[0])


def _area(edge: Edge, d: Any, start: float, end: float) -> float:
    """Integral of f - d_1 from start to end."""
    if edge.chain is None:
        return _smooth_area(lambda v: edge.most(1, v) - d[1], start, end)
    low, high = min(start, end), max(start, end)
    inner = edge.chain[:, 0][(edge.chain[:, 0] > low) & (edge.chain[:, 0] < high)]
    at = np.concatenate([[low], inner, [high]])
    height = np.array([edge.most(1, v) for v in at]) - d[1]
    return float(np.sum((height[1:] + height[:-1]) / 2 * np.diff(at))) * (1.0 if end >= start else -1.0)
