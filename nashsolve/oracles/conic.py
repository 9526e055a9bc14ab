"""Concave CVXPY expressions over CVXPY constraints, by a conic solver."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from nashsolve.backends.conic import TIGHT, run
from nashsolve.backends.conic import cvxpy as cp
from nashsolve.core.errors import InvalidProblem

from .base import Proposal

_GOOD = ("optimal", "optimal_inaccurate", "user_limit")


def _power(x: Any, exponent: float) -> Any:
    """x**exponent by power cones where CVXPY has them; before, by second-order cones for a nearby fraction."""
    exact = "approx" in inspect.signature(cp.power).parameters
    return cp.power(x, exponent, approx=False) if exact else cp.power(x, exponent)


class ConicOracle:
    """Expressions as utilities; duals of the caller's constraints are in the evidence, by constraint number."""

    rtol = 1e-4
    resolution = 1e-7
    polyhedral = False
    solver = "cvxpy"

    def __init__(self, expressions: Any, constraints: Any, names: Any = None) -> None:
        self.expressions, self.constraints = list(expressions), list(constraints)
        self.n = len(self.expressions)
        self.names = names or [f"player {i}" for i in range(self.n)]
        self.options: dict[str, Any] = {}
        self._checked = False

    def fair(self, weights: Any, disagreement: Any, aversion: float) -> Proposal:
        """See Oracle."""
        self._check()
        gains = cp.Variable(self.n)
        link = [gains[i] <= u - float(disagreement[i]) for i, u in enumerate(self.expressions)]
        share = weights if aversion == 1 else weights / (1 - aversion)
        goal = share @ (cp.log(gains) if aversion == 1 else _power(gains, 1 - aversion))
        found = self._solve(goal, link)
        y = np.array([float(abs(limit.dual_value)) for limit in link]) if not found.stopped else weights
        return Proposal(found.utilities, found.point, y, found.n_iter, self.solver, found.stopped, found.evidence)

    def linear(self, direction: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        self._check()
        return self._linear(direction, floor)

    def _linear(self, direction: Any, floor: Any = None) -> Proposal:
        held = np.flatnonzero(np.isfinite(floor)) if floor is not None else np.zeros(0, dtype=int)
        link = [self.expressions[i] >= float(floor[i]) for i in held]
        goal = sum(float(y) * u for y, u in zip(direction, self.expressions, strict=True) if y > 0)
        found = self._solve(goal, link)
        y = np.array(direction, dtype=float)
        if not found.stopped:
            y[held] += [float(abs(limit.dual_value)) for limit in link]
        return Proposal(found.utilities, found.point, y, found.n_iter, self.solver, found.stopped, found.evidence)

    def maxmin(self, base: Any, scale: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        self._check()
        t = cp.Variable()
        free = np.flatnonzero(scale > 0)
        held = np.flatnonzero(np.isfinite(floor)) if floor is not None else np.zeros(0, dtype=int)
        link = [self.expressions[i] >= float(base[i]) + float(scale[i]) * t for i in free]
        link += [self.expressions[i] >= float(floor[i]) for i in held]
        found = self._solve(t, link)
        y = np.zeros(self.n)
        if not found.stopped:
            np.add.at(y, np.concatenate([free, held]).astype(int), [float(abs(c.dual_value)) for c in link])
        return Proposal(found.utilities, found.point, y, found.n_iter, self.solver, found.stopped, found.evidence)

    def feasible(self, proposal: Proposal) -> bool:
        """As far as the conic solver's tolerance goes; measured when the point was found."""
        return bool(proposal.evidence.get("violation", np.inf) <= 1e-6)

    def spread(self) -> Any:
        """Not known without more solves."""
        return np.zeros(self.n)

    def support(self, direction: Any, proposal: Proposal) -> float:
        """A second, separate solve: the best value in that direction."""
        if not np.isfinite(direction).all() or not (direction > 0).any():
            return np.inf
        size = float(np.max(direction))
        goal = sum(float(y) * u for y, u in zip(direction / size, self.expressions, strict=True) if y > 0)
        model = cp.Problem(cp.Maximize(goal), self.constraints)
        if run(model, **TIGHT) not in _GOOD or model.value is None:
            return np.inf
        return float(model.value) * size

    def _solve(self, goal: Any, link: list[Any]) -> Proposal:
        model = cp.Problem(cp.Maximize(goal), self.constraints + link)
        status = run(model, **TIGHT)
        nan = np.full(self.n, np.nan)
        if status not in _GOOD or any(u.value is None for u in self.expressions):
            word = {"infeasible": "infeasible", "infeasible_inaccurate": "infeasible", "unbounded": "unbounded"}
            return Proposal(nan, None, nan, 0, self.solver, word.get(status, "numerical"))
        utilities = np.array([float(np.asarray(u.value).reshape(())) for u in self.expressions])
        point = {v.name(): np.array(v.value) for v in model.variables() if v.value is not None}
        point = {k: v for k, v in point.items() if any(k == v.name() for v in self._own())}
        violation = max((float(np.max(c.violation(), initial=0.0)) for c in self.constraints), default=0.0)
        duals = [None if c.dual_value is None else np.array(c.dual_value) for c in self.constraints]
        stats = model.solver_stats
        steps = int(stats.num_iters) if stats is not None and stats.num_iters is not None else 0
        return Proposal(
            utilities,
            point,
            nan,
            steps,
            self.solver,
            "",
            {"duals": duals, "cvxpy_status": status, "violation": violation},
        )

    def _own(self) -> list[Any]:
        return [v for e in (*self.expressions, *self.constraints) for v in e.variables()]

    def _check(self) -> None:
        """The set is not empty, and no utility is unbounded on it."""
        if self._checked:
            return
        self._checked = True
        for i, u in enumerate(self.expressions):
            status = run(cp.Problem(cp.Maximize(u), self.constraints))
            if status.startswith("infeasible"):
                raise InvalidProblem("the constraints leave no feasible point: the set is empty")
            if status.startswith("unbounded"):
                raise InvalidProblem(
                    f"the utility of {self.names[i]} has no upper bound on the constraints; add what limits it"
                )
