"""The oracle of a problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem, InvalidType
from nashsolve.core.problem import BargainingProblem
from nashsolve.problems.convex import ConvexBargainingProblem
from nashsolve.problems.domains import ball
from nashsolve.problems.outcomes import OutcomeBargainingProblem

from .base import Oracle


def oracle(problem: Any, options: dict[str, Any] | None = None) -> Oracle:
    """How to optimize over the feasible set of `problem`.

    options : max_iter and time_limit, for the first-party methods

    Raises
    ------
    InvalidProblem
        For a batch, a mask, or an option that this kind of problem has no use for.
    """
    from .smooth import SmoothOracle  # with scipy.optimize, which the package itself should not wait for

    names = problem.names
    found: Any
    if isinstance(problem, OutcomeBargainingProblem):
        from .hull import HullOracle

        found = HullOracle(problem.payoffs, names)
    elif isinstance(problem, ConvexBargainingProblem) and problem.form == "cvxpy":
        from .conic import ConicOracle

        found = ConicOracle(problem.utilities, problem.constraints, names)
    elif isinstance(problem, ConvexBargainingProblem):
        linear = problem.form == "linear"
        found = SmoothOracle(
            problem.constraints,
            problem.n,
            matrix=problem.utilities if linear else None,
            offset=problem.offset if linear else None,
            functions=None if linear else problem.utilities,
            names=names,
        )
    elif isinstance(problem, BargainingProblem):
        found = _ball(problem, names)
    else:
        raise InvalidType(f"{type(problem).__name__} is not a bargaining problem that this package knows")
    for name, value in (options or {}).items():
        if not isinstance(found, SmoothOracle):
            raise InvalidProblem(
                f"{name} has no effect on this problem, which {type(found).__name__} answers; leave it out"
            )
        found.options[name] = value
    return found


def rows_of(problem: BargainingProblem) -> Any:
    """Vectors (n, k) with the Gram of the problem and no more coordinates than players, in NumPy."""
    if problem.white is not None:
        rows = to_numpy(problem.white)
        return rows if rows.shape[1] <= rows.shape[0] else np.linalg.qr(rows.T, mode="reduced")[1].T
    values, basis = np.linalg.eigh(to_numpy(problem.unit_gram))
    return basis * np.sqrt(values.clip(0)) / to_numpy(problem.scale)[:, None]


def _ball(problem: BargainingProblem, names: Any) -> Oracle:
    from .smooth import SmoothOracle

    if problem.batch_shape or problem.mask is not None:
        raise InvalidProblem(
            "solution concepts other than Nash take one problem without a mask; pick an item of the batch"
        )
    if problem.n == 0:
        raise InvalidProblem("there are no players; at least one is needed")
    rows = rows_of(problem)
    return SmoothOracle(ball(rows.shape[1], float(problem.ball_radius)), problem.n, matrix=rows, names=names)
