"""Lotteries over finitely many outcomes: the convex hull of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from nashsolve.problems.domains import Domain

from .base import Proposal
from .lottery import solve_lottery
from .smooth import SmoothOracle

_DIRECT = 100
"""Outcomes per player up to which a linear program takes the whole table."""
_ROUNDS = 60


class HullOracle(SmoothOracle):
    """Payoffs (K, n); the log Nash product has a method of its own, everything else is a program over the simplex."""

    def __init__(self, payoffs: Any, names: Any = None) -> None:
        self.payoffs = payoffs
        self.n = payoffs.shape[1]
        self.matrix, self.functions, self.offset = payoffs.T, None, np.zeros(self.n)
        self._names = names
        self.options: dict[str, Any] = {}
        self._checked = True

    @cached_property
    def domain(self) -> Domain:  # type: ignore[override]
        """Probabilities of the outcomes."""
        k = len(self.payoffs)
        return Domain(k, lower=np.zeros(k), upper=np.ones(k), equal=np.ones((1, k)), total=[1.0])

    def fair(self, weights: Any, disagreement: Any, aversion: float) -> Proposal:
        """See Oracle."""
        if aversion != 1:
            return super().fair(weights, disagreement, aversion)
        best = self.payoffs.max(axis=0) - disagreement
        if not (best > 0).all():
            y = np.where(best <= 0, 1.0, 0.0)
            nan = np.full(self.n, np.nan)
            return Proposal(nan, np.full(len(self.payoffs), np.nan), y / y.sum(), 0, "lottery", "blocked")
        scale = np.ldexp(1.0, -np.frexp(best)[1])  # a power of two, with the best payoff in [0.5, 1)
        pi, gains, steps, stopped = solve_lottery(
            self.payoffs, weights, **self.options, shift=disagreement, scale=scale
        )
        # those weights that block, found in the units of the table, or what a gain is worth
        y = gains * scale if stopped == "blocked" else weights * scale / gains
        return Proposal(pi @ self.payoffs, pi, y, steps, "lottery", stopped)

    def feasible(self, proposal: Proposal) -> bool:
        """Probabilities that add up to one."""
        pi = proposal.point
        return float(pi.min()) >= -1e-8 and abs(float(pi.sum()) - 1) <= 1e-8

    def linear(self, direction: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        return self._by_columns(lambda table: SmoothOracle.linear(table, direction, floor), direction)

    def maxmin(self, base: Any, scale: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
        return self._by_columns(lambda table: SmoothOracle.maxmin(table, base, scale, floor), inverse)

    def _by_columns(self, ask: Callable[[HullOracle], Proposal], start: Any) -> Proposal:
        """A linear program on promising outcomes, to which those that its multipliers find missing are added."""
        many, n = self.payoffs.shape
        if many <= _DIRECT * n:
            return ask(self)
        best = np.argpartition(-(self.payoffs @ start), 20 * n)[: 20 * n]
        tops = np.argpartition(-self.payoffs, 9, axis=0)[:10].ravel()
        chosen = np.unique(np.concatenate([best, tops]))
        for _ in range(_ROUNDS):
            found = ask(HullOracle(self.payoffs[chosen], self._names))
            if found.stopped:
                break  # such as floors that only other outcomes reach
            worth = self.payoffs @ found.multipliers
            missing = worth > worth[chosen].max() + 1e-13 * float(abs(worth[chosen]).max())
            new = np.flatnonzero(missing)
            if not len(new):
                point = np.zeros(many)
                point[chosen] = found.point
                return replace(found, point=point, evidence={})
            if len(new) > 20 * n:
                new = new[np.argpartition(-worth[new], 20 * n)[: 20 * n]]
            chosen = np.concatenate([chosen, new])
        return ask(self)

    def spread(self) -> Any:
        """Between the best and the worst outcome of each player."""
        return np.ptp(self.payoffs, axis=0)

    def support(self, direction: Any, proposal: Proposal) -> float:
        """The best outcome in that direction: no multipliers are needed."""
        return float((self.payoffs @ direction).max())
