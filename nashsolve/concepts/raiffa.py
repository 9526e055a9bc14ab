r"""The Raiffa solutions of two players: meet half way between the best that each could have, again and again.

Discrete: :math:`d_{k+1} = \tfrac12 (d_k + I(d_k))` with the ideal point :math:`I(d)`, until the frontier is reached.
Continuous: the limit of small steps, :math:`\dot u = I(u) - u`. [raiffa1953]_, [luce_raiffa1957]_
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import SolverFailed
from nashsolve.core.support import certify_value

from .base import Agreement, Bargain, no_agreement, numpy_view, refuse_more_than_two
from .edge import Edge, finished

_LIMIT = 80
_CLOSE = 1e-5
_CLOSE_POLYGON = 1e-9
"""Distance to the frontier, relative, from which it is straight enough for one last half step."""


def agree_discrete(bargain: Bargain) -> Agreement:
    """Half steps until what is left is rounding."""
    return _agree(bargain, "raiffa_discrete", _half_steps)


def agree_continuous(bargain: Bargain) -> Agreement:
    """The path of the differential equation, by an adaptive Runge-Kutta method."""
    return _agree(bargain, "raiffa_continuous", _path)


def _agree(bargain: Bargain, concept: str, walk: Any) -> Agreement:
    refuse_more_than_two(bargain, concept)
    none = no_agreement(bargain)
    if none is not None:
        return none
    edge = Edge(bargain, fit=walk is _path)
    end, steps = walk(edge, bargain.disagreement)
    found = finished(edge.agreement(float(end[0])), concept)
    y, beyond = edge.judge(found)
    value = float(y @ found.utilities)
    view = numpy_view(bargain.problem)
    proof = certify_value(view, found.utilities, y, value, value + max(beyond, 0.0), found.point)
    return Agreement(found, proof, {"steps": steps, "end": end})


def _half_steps(edge: Edge, d: Any) -> tuple[Any, int]:
    u = np.array(d, dtype=float)
    first = edge.ideal(u) - u
    for step in range(_LIMIT):
        left = edge.ideal(u) - u
        if (left <= 1e-13 * np.maximum(first, abs(u))).any():
            return u, step
        u = u + left / 2
    return u, _LIMIT


def _path(edge: Edge, d: Any) -> tuple[Any, int]:
    from scipy.integrate import solve_ivp

    first = edge.ideal(d) - d
    exact = edge.chain is not None

    def pull(_: float, u: Any) -> Any:
        return (edge.ideal(d + u * first) - d) / first - u

    def close(_: float, u: Any) -> float:
        return float(pull(0.0, u).min()) - (_CLOSE_POLYGON if exact else _CLOSE)

    close.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        pull, (0.0, 60.0), np.zeros(2), method="RK45" if exact else "DOP853", rtol=1e-10, atol=1e-12, events=close
    )
    if found.status != 1:
        raise SolverFailed(f"raiffa_continuous: the path did not reach the frontier: {found.message}")
    u = found.y[:, -1]
    end = u + pull(0.0, u) / 2
    return d + end * first, len(found.t)
