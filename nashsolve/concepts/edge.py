"""The frontier of two players: the most that one can have when the other has at least something.

It is an exact polygon for tables of outcomes and for linear utilities over a polytope. Everywhere else each query is a
program of its own, unless a Chebyshev polynomial through some of them reproduces others to ten digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import SolverFailed
from nashsolve.oracles.base import Proposal
from nashsolve.problems.outcomes import OutcomeBargainingProblem

from .base import Bargain, support_at


class Edge:
    """Frontier of a bargain; `fit` where many queries are to come."""

    def __init__(self, bargain: Bargain, fit: bool = True) -> None:
        self.bargain, self.fit = bargain, fit
        self.chain = None
        self._curves: dict[int, Any] = {}
        self._known: dict[tuple[int, float], Proposal] = {}
        if isinstance(bargain.problem, OutcomeBargainingProblem):
            self.chain = pareto_chain(bargain.problem.payoffs)
        elif bargain.oracle.polyhedral:
            self.chain = pareto_chain(_corners(bargain.oracle))

    def most(self, player: int, least: float) -> float:
        """Largest utility of `player` while the other one has at least `least`; -inf where that is impossible."""
        if self.chain is not None:
            x, y = (self.chain[:, 1 - player], self.chain[:, player])
            if player == 0:
                x, y = x[::-1], y[::-1]
            return -np.inf if least > x[-1] else float(np.interp(least, x, y))
        if not self.fit:
            return self._direct(player, least)
        if player not in self._curves:
            self._curves[player] = None  # while it is built, queries are answered directly
            self._curves[player] = self._fit(player)
        curve = self._curves[player]
        return self._direct(player, least) if curve is None else curve(least)

    def _direct(self, player: int, least: float) -> float:
        found = self._program(player, least)
        return float(found.utilities[player]) if np.isfinite(found.utilities).all() else -np.inf

    def _fit(self, player: int) -> Any:
        """The curved part as a polynomial, in a variable that tames a vertical end; None if none fits."""
        low = float(self.bargain.disagreement[1 - player])
        best = self._program(player, low).utilities
        start, top = max(float(best[1 - player]), low), float(best[player])
        far = float(self._program(1 - player, float(self.bargain.disagreement[player])).utilities[1 - player])
        if not far > start:
            return None
        for degree in (24, 48):
            nodes = np.polynomial.chebyshev.chebpts1(degree + 1)
            values = np.array([self._direct(player, far - (far - start) * (0.5 - 0.5 * s) ** 2) for s in nodes])
            if not np.isfinite(values).all():
                return None
            series = np.polynomial.chebyshev.Chebyshev(np.polynomial.chebyshev.chebfit(nodes, values, degree))

            def curve(least: float, series: Any = series) -> float:
                if least <= start:
                    return top
                if least > far:
                    return self._direct(player, least)
                return float(series(1 - 2 * np.sqrt((far - least) / (far - start))))

            probes = far - (far - start) * np.array([0.003, 0.11, 0.37, 0.71, 0.93])
            off = max(abs(curve(v) - self._direct(player, v)) for v in probes)
            if off <= 1e-9 * (abs(values).max() + top - values.min()):
                return curve
        return None

    def ideal(self, at: Any) -> Any:
        """(2,) the most that each can have while the other keeps what `at` gives."""
        return np.array([max(self.most(0, at[1]), at[0]), max(self.most(1, at[0]), at[1])])

    def agreement(self, first: float) -> Proposal:
        """The point of the set where player 0 has `first` and player 1 the most."""
        return self._program(1, first)

    def _program(self, player: int, least: float) -> Proposal:
        key = (player, float(least))
        if key not in self._known:
            floor = np.full(2, -np.inf)
            floor[1 - player] = least
            direction = np.zeros(2)
            direction[player] = 1.0
            self._known[key] = self.bargain.oracle.linear(direction, floor)
        return self._known[key]

    def judge(self, found: Proposal) -> tuple[Any, float]:
        """Multipliers that support the agreement, and how far beyond it the set reaches in that direction."""
        y = np.maximum(found.multipliers, 0.0)
        return y, support_at(self.bargain, y, found) - float(y @ found.utilities)


def pareto_chain(points: Any) -> Any:
    """Vertices (m, 2) of the convex hull that no mixture dominates, by growing first coordinate."""
    order = np.lexsort((-points[:, 1], points[:, 0]))
    kept: list[Any] = []
    for p in points[order]:
        while kept and (
            p[1] >= kept[-1][1]
            or (
                len(kept) > 1
                and (kept[-1][0] - kept[-2][0]) * (p[1] - kept[-2][1])
                >= (kept[-1][1] - kept[-2][1]) * (p[0] - kept[-2][0])
            )
        ):
            kept.pop()
        kept.append(p)
    return np.array(kept)


def _corners(oracle: Any) -> Any:
    """Corners (m, 2) of the Pareto frontier of a polyhedral set: split every edge at the point farthest beyond it."""

    def extreme(direction: Any) -> Any:
        return oracle.linear(np.asarray(direction, dtype=float)).utilities

    ends = []
    for player in (1, 0):
        e = np.zeros(2)
        e[player] = 1.0
        top = extreme(e)[player]
        floor = np.full(2, -np.inf)
        floor[player] = top - 1e-12 * max(abs(top), 1e-300)
        ends.append(oracle.linear(1.0 - e, floor).utilities)
    points, edges = [*ends], [tuple(ends)]
    while edges and len(points) < 2000:
        left, right = edges.pop()
        normal = np.array([left[1] - right[1], right[0] - left[0]])
        if (normal <= 1e-12 * abs(normal).max()).any():
            continue
        beyond = extreme(normal)
        if normal @ (beyond - left) > 1e-10 * abs(normal * (right - left)).sum():
            points.append(beyond)
            edges += [(left, beyond), (beyond, right)]
    return np.array(points)


def finished(proposal: Proposal, what: str) -> Proposal:
    """The proposal; raises where the last program found nothing."""
    if not np.isfinite(proposal.utilities).all():
        raise SolverFailed(f"{what}: the program for the last point ended as {proposal.stopped or 'nothing'}")
    return proposal
