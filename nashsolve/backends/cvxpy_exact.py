r"""The exact conic model of the primal, through CVXPY: the reference for every other engine.

.. math:: \max \sum_i w_i \log s_i \quad s = Lz - d,\ \|z\| \le r,\ z \in \text{constraints}

with L the equilibrated vectors. The multipliers of `s = Lz - d` are alpha; `w / s` is alpha too, less exact where
gains are small, so the one that fits the equation better is proposed. What the solver claims is not believed:
optimal_inaccurate and user_limit end as the core's own certificate says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nashsolve.core.arrays import Array, to_numpy
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solver import RawAnswer

from .conic import TIGHT, like, run
from .conic import cvxpy as cp


@dataclass(frozen=True)
class CvxpyExact:
    """Conic solve of one problem.

    constraints : function of the CVXPY variable x (p,) in the coordinates of `vectors`, returning a list of convex
        constraints; then `alpha` are still `w / gains`, and the gap is measured against the constrained set
    conic_solver : name of a CVXPY solver that handles exponential cones
    settings : what CVXPY hands to that solver; None is tolerances of 1e-12 for Clarabel, else its own defaults
    rtol : relative accuracy of alpha that counts as SOLVED, 1e-4 by default: interior points stop early
    """

    constraints: Callable[[Any], list[Any]] | None = None
    conic_solver: str = "CLARABEL"
    settings: dict[str, Any] | None = None
    rtol: float | None = 1e-4
    name: str = "cvxpy"

    def why_not(self, problem: BargainingProblem) -> str | None:
        if problem.batch_shape:
            return "it takes one problem at a time"
        if problem.mask is not None:
            return "it does not take a mask; leave the absent players out"
        if self.constraints is not None and problem.vectors is None:
            return "constraints on x need vectors"
        if problem.n == 0:
            return "there are no players"
        return None

    def solve(self, problem: BargainingProblem, start: Array | None = None) -> RawAnswer:
        import numpy as np

        rows, w, d, radius, scale = _data(problem, keep_space=self.constraints is not None)
        z = cp.Variable(rows.shape[1])
        s = cp.Variable(problem.n)
        link = s == rows @ z - d
        limits = [link, cp.norm(z) <= 1]
        if self.constraints is not None:
            limits += list(self.constraints(_in_given_space(problem, z, radius)))
        model = cp.Problem(cp.Maximize(w @ cp.log(s)), limits)
        self._run(model)
        if s.value is None or link.dual_value is None:
            return self._without_value(problem, rows, d, scale, radius, model.status)
        candidates = [abs(np.asarray(link.dual_value))]
        if (s.value > 0).all():
            candidates.append(w / s.value)
        if self.constraints is not None:
            return self._constrained(problem, rows, w, d, z, limits[1:], scale, radius, model.status)
        length = [np.linalg.norm(rows.T @ c) for c in candidates]
        errors = [
            abs(c * (rows @ (rows.T @ c) / max(n, 1e-300) - d) / w - 1).max()
            for c, n in zip(candidates, length, strict=True)
        ]
        best = int(np.argmin(np.where(np.isfinite(errors), errors, np.inf)))
        beta = candidates[best]
        inside = float(np.linalg.norm(np.asarray(z.value))) < 1 - 1e-6 and length[best] < 1e-4 * (
            beta @ np.linalg.norm(rows, axis=1)
        )
        details = {"cvxpy_status": model.status, "dual": best == 0}
        alpha = like(beta * scale / radius, problem)
        if inside:
            c = np.linalg.lstsq(rows @ rows.T, rows @ z.value, rcond=None)[0] * scale * radius
            return RawAnswer(alpha, self._iterations(model), coefficients=like(c, problem), details=details)
        return RawAnswer(alpha, self._iterations(model), details=details)

    def _run(self, model: Any) -> None:
        own = TIGHT if self.conic_solver == "CLARABEL" else {}
        run(model, self.conic_solver, **(own if self.settings is None else self.settings))

    @staticmethod
    def _iterations(model: Any) -> int:
        stats = model.solver_stats
        return int(stats.num_iters) if stats is not None and stats.num_iters is not None else 0

    def _without_value(
        self, problem: BargainingProblem, rows: Any, d: Any, scale: Any, radius: float, status: str
    ) -> RawAnswer:
        """The conic solver gave nothing: look for the certificate by a problem of its own."""
        y = _certificate(rows, d)
        details = {"cvxpy_status": status, "reason": f"CVXPY says {status}"}
        return RawAnswer(like(y * scale / radius, problem), 0, "" if y.any() else "numerical", details=details)

    def _constrained(
        self,
        problem: BargainingProblem,
        rows: Any,
        w: Any,
        d: Any,
        z: Any,
        limits: list[Any],
        scale: Any,
        radius: float,
        status: str,
    ) -> RawAnswer:
        """Support function of the constrained set at the agreement: what certifies a point of any convex set."""
        gains = rows @ z.value - d
        direction = w / gains
        support = cp.Problem(cp.Maximize((rows.T @ direction) @ z), limits)
        found = z.value.copy()
        self._run(support)
        bound = float("inf") if support.value is None else float(support.value - d @ direction)
        details = {
            "cvxpy_status": status,
            "constrained": {"point": like(found * radius, problem), "support": like(bound, problem)},
        }
        return RawAnswer(like(direction * scale / radius, problem), 0, details=details)


def _data(problem: BargainingProblem, keep_space: bool) -> tuple[Any, Any, Any, float, Any]:
    """Equilibrated data in units of the radius, as NumPy."""
    import numpy as np

    b = to_numpy(problem.unit_gram)
    rows = None if problem.unit_vectors is None else to_numpy(problem.unit_vectors)
    if rows is None:
        values, basis = np.linalg.eigh(b)
        rows = basis * np.sqrt(values.clip(0))
    elif not keep_space and rows.shape[1] > rows.shape[0]:
        rows = np.linalg.qr(rows.T, mode="reduced")[1].T
    radius = float(problem.ball_radius)
    d = problem.unit_disagreement
    d = np.zeros(problem.n) if d is None else to_numpy(d) / radius
    return rows, to_numpy(problem.power), d, radius, to_numpy(problem.scale)


def _in_given_space(problem: BargainingProblem, z: Any, radius: float) -> Any:
    """The user's x as an affine expression of the unit ball's z."""
    import numpy as np

    from nashsolve.core.validation import unwhiten

    if problem.metric is None:
        return radius * z
    basis = np.eye(problem.vectors.shape[-1])
    columns = np.stack([to_numpy(unwhiten(like(e, problem), problem.metric, problem.xp)) for e in basis], axis=1)
    return radius * (columns @ z)


def _certificate(rows: Any, d: Any) -> Any:
    """The y >= 0 that blocks most: least |G y| with d'y = 1, or on the simplex; zeros where even that fails."""
    import numpy as np

    for level in (d, np.ones(rows.shape[0])) if d.any() else (np.ones(rows.shape[0]),):
        y = cp.Variable(rows.shape[0], nonneg=True)
        model = cp.Problem(cp.Minimize(cp.sum_squares(rows.T @ y)), [level @ y == 1])
        status = run(model, tol_gap_abs=1e-16, tol_gap_rel=1e-14, tol_feas=1e-14)
        if status != "solver_error" and y.value is not None:
            return np.where(y.value > 1e-7 * y.value.max(), y.value, 0.0)
    return np.zeros(rows.shape[0])
