r"""The sequential convex-concave procedure of Navon et al. 2022 [navon2022]_, as published.

Iterates :math:`\min_\alpha \sum_i (\hat A\alpha)_i + \nabla\varphi(\alpha_t)^\top \alpha / c` subject to
:math:`\log\alpha_i + \log(\hat A\alpha)_i + \log c \ge \log w_i`, with :math:`\hat A = A / c`, :math:`c = \|A\|_F` and
:math:`\varphi = \sum_i \log\alpha_i + \log(A\alpha)_i`, from alpha = 1. The published model is kept, written so that
CVXPY compiles it once. Its failures are reported: the first sub-problem can be unbounded (where some player loses at
alpha = 1), and a stationary point need not be the Nash point (then `solution.effective_weights` says whose
bargain was solved). Unlike the bargaining solution, the procedure depends on the players' units.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from nashsolve.core.arrays import Array, to_numpy
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer

from .conic import TIGHT, like, run
from .conic import cvxpy as cp


@dataclass(frozen=True)
class SequentialCCP:
    """The published procedure for one problem with zero disagreement.

    max_iter : convex sub-problems allowed (the paper's experiments use 20, and 2 per layer)
    stop_residual, stop_step : the published absolute stopping tests
    rtol : relative accuracy of alpha that counts as SOLVED, 1e-4 by default
    """

    max_iter: int = 20
    time_limit: float | None = None
    stop_residual: float = 1e-3
    stop_step: float = 1e-6
    rtol: float | None = 1e-4
    name: str = "ccp"

    def why_not(self, problem: BargainingProblem) -> str | None:
        import numpy as np

        if problem.batch_shape:
            return "it takes one problem at a time"
        if problem.disagreement is not None:
            return "it knows zero disagreement only"
        if problem.mask is not None:
            return "it does not take a mask; leave the absent players out"
        if problem.n == 0:
            return "there are no players"
        if not np.isfinite(np.linalg.norm(_raw_gram(problem))):
            return "it works in the players' own units, in which this Gram overflows"
        return None

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        import numpy as np

        a, w = _raw_gram(problem), to_numpy(problem.power)
        c = float(np.linalg.norm(a))
        if c == 0:
            return RawAnswer(like(np.ones(problem.n), problem), 0, "numerical", details={"reason": "the Gram is zero"})
        unit = a / c
        alpha = np.ones(problem.n) if start is None else to_numpy(start).copy()
        deadline = None if self.time_limit is None else time.perf_counter() + self.time_limit
        model, x, parameters = _model(problem.n)
        parameters["unit"].value = unit
        parameters["level"].value = np.log(w) - np.log(c)
        statuses: list[str] = []
        stopped, reason, count = "max_iter", "", 0
        for count in range(self.max_iter + 1):
            if np.linalg.norm(unit @ alpha - w / (alpha + 1e-10)) < self.stop_residual:
                stopped = ""
                break
            if count == self.max_iter:
                break
            if deadline is not None and time.perf_counter() > deadline:
                stopped = "time"
                break
            with np.errstate(all="ignore"):
                y = unit @ alpha
                slope = (w / alpha + unit @ (w / y)) / c
            if not np.isfinite(slope).all():
                stopped, reason = "numerical", "the linearization is not finite"
                break
            parameters["cost"].value = unit.sum(0) + slope
            x.value = alpha
            status = run(model, warm_start=True, enforce_dpp=True, **TIGHT)
            statuses.append(status)
            if x.value is None or status in ("unbounded", "infeasible", "solver_error"):
                stopped = "numerical"
                loses = " because some player loses at the current point" if (a @ alpha).min() <= 0 else ""
                reason = f"sub-problem {count + 1} is {status}{loses}; the published code returns this point unchanged"
                break
            step = float(np.linalg.norm(x.value - alpha))
            alpha = np.array(x.value)
            if step < self.stop_step:
                stopped, count = "", count + 1
                break
        details: dict[str, Any] = {"sub_problems": statuses, "effective_weights": alpha * (a @ alpha)}
        if stopped == "" and not reason:
            reason = "if this is not the Nash point, it is the agreement for effective_weights = alpha * (A alpha)"
        if reason:
            details["reason"] = reason
        if problem.radius is not None:
            alpha = alpha * float(np.sqrt(w.sum()) / to_numpy(problem.ball_radius))
        return RawAnswer(like(np.maximum(alpha, 0.0), problem), count, stopped, details=details)


def _model(n: int) -> tuple[Any, Any, dict[str, Any]]:
    """The sub-problem for n players with everything that changes as a parameter, so that it compiles once."""
    x = cp.Variable(n, nonneg=True)
    unit, cost, level = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter(n)
    model = cp.Problem(cp.Minimize(cost @ x), [cp.log(x) + cp.log(unit @ x) >= level])
    return model, x, {"unit": unit, "cost": cost, "level": level}


def _raw_gram(problem: BargainingProblem) -> Any:
    import numpy as np

    with np.errstate(all="ignore"):
        scale = to_numpy(problem.scale)
        return to_numpy(problem.unit_gram) / scale[:, None] / scale[None, :]
