"""What the engines that go through CVXPY share: one careful call, and arrays back in the caller's library."""

from __future__ import annotations

import threading
import warnings
from typing import Any

from nashsolve.core.arrays import Array, device
from nashsolve.core.errors import MissingExtra, SolverFailed
from nashsolve.core.problem import BargainingProblem

try:
    import cvxpy
except ImportError as error:
    raise MissingExtra("cvxpy", "cvxpy", "the conic engines") from error

_LOCK = threading.Lock()
"""CVXPY warns about inexact answers; silencing that is not safe in threads, so calls take turns."""

TIGHT: dict[str, Any] = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def run(model: Any, solver: str = "CLARABEL", **settings: Any) -> str:
    """Solve and return CVXPY's status; "solver_error" where the conic solver broke down.

    Raises
    ------
    SolverFailed
        When CVXPY has no such solver here.
    """
    if solver not in cvxpy.installed_solvers():
        found = ", ".join(cvxpy.installed_solvers())
        raise SolverFailed(f"CVXPY has no solver {solver!r} here (installed: {found}); pip install clarabel")
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.solve(solver=solver, **settings)
        except cvxpy.error.SolverError:
            return "solver_error"
    return str(model.status)


def like(x: Any, problem: BargainingProblem) -> Array:
    """NumPy to the library and device of the problem."""
    return problem.xp.asarray(x, dtype=problem.xp.float64, device=device(problem.unit_gram))
