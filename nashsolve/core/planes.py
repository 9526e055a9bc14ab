"""The Solution that the compiled kernel and the device fill plane by plane."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from . import arrays
from .problem import BargainingProblem
from .solution import Solution
from .verdict import batch_message, ends

_UNREAD = "The statuses are on the device: read solution.status there, or solution.success, which waits for it."
_PER_ITEM = (
    *("alpha", "ball_multiplier", "coefficients", "utilities", "gains", "log_nash_product", "status", "gap"),
    *("backward_error", "error_bound", "angle_bound", "margin", "margin_lower", "certificate", "radius_needed"),
    *("effective_weights", "n_iter"),
)


def from_planes(
    problem: BargainingProblem,
    lines: Any,
    numbers: Any,
    codes: Any,
    n_iter: Any,
    solver: str,
    begin: float,
    wrap: Any = None,
    details: dict[str, Any] | None = None,
    unread: bool = False,
    rough: bool = False,
    how: dict[str, Any] | None = None,
) -> Solution:
    """The Solution of a float64 problem at zero or active disagreement from the kernel's planes, all items solved.

    lines : (7, ..., n) and numbers : (11, ...) in the order of `Line` and `Number` in kernels/certificate.hpp
    wrap : what turns a NumPy array into one of the problem's library, None where it is NumPy
    unread : leave statuses on their device; those of one problem are read, which waits, when they are asked for
    rough : whether the iteration ran in float32
    how : what `ends` says, where it is known already
    """
    single = codes.ndim == 0
    if unread:
        how = {"message": _UNREAD}
        how |= {"_unread": (codes, n_iter, numbers[9], rough)} if single else _ends_unread(codes, n_iter)
    elif how is None:
        how = ends(problem, codes, n_iter, numbers[9], rough)
    if wrap is not None:
        lines, numbers = wrap(lines), wrap(numbers)
        how["status"] = how["status"] if single else wrap(codes)
    alpha, coefficients, utilities, gains, bound, blocking, effective = lines
    multiplier, log_nash, gap, backward, angle, margin, margin_lower, radius_needed, *_ = numbers
    solution = object.__new__(Solution)
    values = {  # set at once: one by one takes as long as the solve
        "problem": problem,
        "alpha": alpha,
        "ball_multiplier": multiplier,
        "coefficients": coefficients,
        "utilities": utilities,
        "gains": gains,
        "log_nash_product": log_nash,
        "gap": gap,
        "backward_error": backward,
        "error_bound": bound,
        "angle_bound": angle,
        "margin": margin,
        "margin_lower": margin_lower,
        "certificate": blocking,
        "radius_needed": radius_needed,
        "effective_weights": effective,
        "solver": solver,
        "solve_time": time.perf_counter() - begin,
        "details": {} if details is None else details,
        "_point": None,
    }
    object.__setattr__(solution, "__dict__", values | how)
    return solution


def _ends_unread(codes: Any, n_iter: Any) -> dict[str, Any]:
    """The ends of a batch that the host does not read; what limits its accuracy stays unsaid."""
    return {"status": codes, "limited_by": "", "n_iter": n_iter}


def replace_items(solution: Solution, items: Any, general: Any, begin: float) -> Solution:
    """The batch `solution` with the items of a boolean NumPy mask solved anew by `general`, which takes a problem."""
    problem, xp = solution.problem, solution.problem.xp
    rows = xp.nonzero(xp.asarray(items))

    def pick(value: Any, core_axes: int) -> Any:
        return value if value is None or value.ndim <= core_axes else value[rows]

    part = BargainingProblem(
        gram=problem.gram[rows],
        weights=pick(problem.weights, 1),
        radius=pick(problem.radius, 0),
        disagreement=pick(problem.disagreement, 1),
        gram_error=problem.gram_error,
    )
    part.also_invalid(pick(problem.invalid, 0))
    fresh = general(part)
    for name in _PER_ITEM:
        values = getattr(solution, name)
        values[rows] = xp.asarray(getattr(fresh, name))
    codes = arrays.to_numpy(solution.status)
    limited = fresh.limited_by or solution.limited_by
    return replace(
        solution,
        limited_by=limited,
        message=batch_message(codes, problem),
        solve_time=time.perf_counter() - begin,
    )
