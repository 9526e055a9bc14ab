"""Coefficients of a merge from the Gram matrix of its domain vectors, one rule a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import nashsolve as ns
from nashsolve.core.status import Status

from .recipe import Solver

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Agreement:
    """Coefficients (n,) of the domain vectors and what the certificate says; None where nothing was solved."""

    coefficients: Array
    status: str
    alpha: Array | None = None
    gains: Array | None = None
    margin: float | None = None
    error_bound: float | None = None
    crosscheck: str = ""
    message: str = ""

    @property
    def agreed(self) -> bool:
        """False when a bargaining problem has no certified answer."""
        return self.status in ("", Status.SOLVED.name, Status.SOLVED_INACCURATE.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the journal and the report."""

        def plain(values: Array | None) -> list[float] | None:
            return None if values is None else [float(v) for v in values]

        return {
            "status": self.status,
            "coefficients": plain(self.coefficients),
            "alpha": plain(self.alpha),
            "gains": plain(self.gains),
            "margin": self.margin,
            "error_bound": self.error_bound,
            "crosscheck": self.crosscheck,
            "message": self.message,
        }


def coefficients(
    method: str,
    gram: Array,
    *,
    weights: Array,
    scale: str,
    solver: Solver,
    gram_error: float = 0.0,
    crosscheck: bool = False,
    mean_radius: float | None = None,
) -> Agreement:
    """Coefficients by which domain vectors are added.

    Parameters
    ----------
    method : nash, mean, frequency, min_norm or utilitarian
    gram : (n, n) of the domain vectors
    weights : (n,) positive for nash and mean; shares of use for frequency
    scale : sum1 (coefficients add up to one), exact (as solved), unit (the step has length one), match_mean (the step
        is as long as the mean of the domain vectors)
    mean_radius : radius in lengths of the mean, where disagreement is the utility of the mean
    """
    moved = np.diagonal(gram) > 0
    n = len(gram)
    if not moved.any():
        return Agreement(np.zeros(n), "", message="no domain vector differs from zero")
    inside = gram[np.ix_(moved, moved)]
    power = weights[moved]
    if method == "nash":
        found = _nash(inside, power, solver, gram_error, crosscheck, mean_radius)
    elif method == "min_norm":
        found = Agreement(shortest(inside), "")
    else:
        found = Agreement(power / power.sum() if power.sum() > 0 else np.full(len(power), 1 / len(power)), "")
    spread = np.zeros(n)
    if found.agreed:
        spread[moved] = _scaled(found.coefficients, inside, scale, power)
    return Agreement(**{**found.__dict__, "coefficients": spread})


def _nash(
    gram: Array, weights: Array, solver: Solver, gram_error: float, crosscheck: bool, mean_radius: float | None
) -> Agreement:
    how: dict[str, Any] = {"gram_error": min(gram_error, 0.5)}
    if mean_radius is not None:
        share = weights / weights.sum()
        how["disagreement"] = gram @ share
        how["radius"] = mean_radius * max(float(share @ gram @ share), 0.0) ** 0.5
    problem = ns.BargainingProblem(gram=gram, weights=weights, **how)
    solution = ns.solve(problem, solver=solver.name, on_failure="return", rtol=solver.rtol)
    status = Status(int(solution.status))
    verdict = ""
    if crosscheck and len(gram) > 1:
        checked = ns.crosscheck(problem)
        verdict = f"{'agree' if checked.agree else 'DISAGREE'}: {checked.verdict}"
    if not status.success:
        return Agreement(
            np.zeros(len(gram)), status.name, margin=_number(solution.margin), message=ns.explain(solution)
        )
    return Agreement(
        np.asarray(solution.coefficients),
        status.name,
        alpha=np.asarray(solution.alpha),
        gains=np.asarray(solution.gains),
        margin=_number(solution.margin),
        error_bound=_number(np.max(solution.error_bound)),
        crosscheck=verdict,
    )


def _number(value: Any) -> float | None:
    found = float(value)
    return found if np.isfinite(found) else None


def shortest(gram: Array) -> Array:
    """Coefficients >= 0 with sum one of the shortest convex combination, by an active set.

    Minimizes lambda' K lambda over the simplex: nonnegative least squares on a square root of K with one more row that
    forces the sum.
    """
    from scipy.optimize import nnls

    size = float(np.trace(gram)) / len(gram)
    values, vectors = np.linalg.eigh(gram / size)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    heavy = 1e4
    found, _ = nnls(np.vstack([root, np.full((1, len(gram)), heavy)]), np.append(np.zeros(len(gram)), heavy))
    return np.asarray(found / found.sum())


def _scaled(raw: Array, gram: Array, scale: str, weights: Array) -> Array:
    if scale == "exact":
        return raw
    if scale == "sum1":
        return np.asarray(raw / raw.sum())
    length = max(float(raw @ gram @ raw), 0.0) ** 0.5
    if length == 0.0:
        return raw
    if scale == "unit":
        return raw / length
    share = weights / weights.sum()
    return np.asarray(raw * (max(float(share @ gram @ share), 0.0) ** 0.5 / length))
