"""One bargain over a base expert: Gram in, coefficients of the step and a record of what happened out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import nashsolve
from nashsolve import BargainingProblem, Solution, Status
from nashsolve.core.errors import InvalidProblem

from .chain_config import BargainConfig, Policy, Scale
from .domain import DomainGram


@dataclass(frozen=True)
class Agreement:
    """What the experts agreed on, or what the policy did instead.

    coefficients : (N,) of the step ``sum_i c_i tau_i``
    alpha : (N,) exact multipliers, None where no agreement was found
    policy : "" for an agreement, else the policy that acted
    factor : coefficients / unscaled coefficients
    length : of the step, by the Gram that was solved; None without one
    record : plain numbers for telemetry
    """

    coefficients: np.ndarray
    alpha: np.ndarray | None
    policy: str
    factor: float = 1.0
    length: float | None = None
    record: dict[str, Any] = field(default_factory=dict)


def uniform(n: int) -> Agreement:
    """The mean step, without a bargain."""
    record = {"status": "UNIFORM", "solver": "none", "message": "", "seconds": 0.0}
    return Agreement(np.full(n, 1 / n), None, "", record=record)


def bargain_over_base(domain: DomainGram, config: BargainConfig, start: np.ndarray | None = None) -> Agreement:
    """Solve for the coefficients of the next base expert.

    Parameters
    ----------
    domain : Gram of the domain vectors
    config : solver, disagreement, scale, ridge, cap and policy
    start : (N,) positive warm start for alpha

    Returns
    -------
    Agreement

    Raises
    ------
    InvalidProblem
        For a Gram with NaN or Inf, that is, for experts that hold them.
    """
    begin = time.perf_counter()
    gram = ridged(domain.gram, config.ridge)
    solution = _solve(stated(gram, domain.gram_error, config), config, start)
    unscaled, policy = _unscaled(solution, gram, config)
    agreed = policy in ("", "face")
    # The policies' own weights sum to one already; by length they could not be scaled: theirs is zero but for rounding.
    factor = float(scale_factor(unscaled, domain.gram, config.scale)) if agreed else 1.0
    if not (np.isfinite(factor) and factor > 0):
        unscaled, policy, factor, agreed = np.zeros_like(unscaled), "hold", 1.0, False
    factor = capped(factor, unscaled, config.cap)
    record = {
        "status": solution.status.name,
        "solver": solution.solver,
        "message": "" if policy == "" else solution.message,
        "gains": _plain(solution.gains) if agreed else None,
        "margin": _number(solution.margin),
        "gap": _number(solution.gap),
        "certificate": _plain(solution.certificate),
        "seconds": time.perf_counter() - begin,
    }
    alpha = np.asarray(solution.alpha, dtype=np.float64) if agreed else None
    c = factor * unscaled
    length = float(np.sqrt(max(c @ domain.gram @ c, 0.0)))
    return Agreement(c, alpha, policy, factor, length, record)


def ridged(gram: Any, ridge: float) -> Any:
    """``K + ridge * tr(K) / N * I``, of NumPy arrays and torch tensors."""
    if not ridge:
        return gram
    eye = np.eye(len(gram))
    eye = eye if isinstance(gram, np.ndarray) else gram.new_tensor(eye)
    return gram + ridge * gram.diagonal().sum() / len(gram) * eye


def scale_factor(coefficients: Any, gram: Any, scale: Scale) -> Any:
    r"""Factor that gives unscaled coefficients the named scale, for NumPy arrays and (differentiably) torch tensors.

    "exact" 1; "frobenius" :math:`\sqrt{\|K\|_F}`; "sum_to_one" :math:`1/\sum c`; "unit_norm"
    :math:`1/\sqrt{c^\top Kc}`; "match_mean" :math:`\sqrt{1^\top K1}/(N\sqrt{c^\top Kc})`.
    """
    if scale == "exact":
        return 1.0
    if scale == "frobenius":
        return (gram**2).sum() ** 0.25
    if scale == "sum_to_one":
        return 1 / coefficients.sum()
    wanted = 1.0 if scale == "unit_norm" else gram.sum().clip(0) ** 0.5 / len(gram)
    return wanted / (coefficients @ gram @ coefficients) ** 0.5


def capped(factor: Any, coefficients: Any, cap: float | None) -> Any:
    """The factor, lowered where it would make a coefficient larger than `cap`."""
    if cap is None:
        return factor
    largest = abs(coefficients).max()
    return cap / largest if bool(factor * largest > cap) else factor


def stated(gram: Any, error: float, config: BargainConfig) -> BargainingProblem:
    """The bargaining problem of a Gram (NumPy, or a torch tensor that may ask for derivatives)."""
    given: dict[str, Any] = {"gram": gram, "gram_error": error}
    if config.disagreement == "mean":
        n = len(gram)
        radius = config.radius or (config.radius_factor or 0.0) * gram.sum().clip(0) ** 0.5 / n
        # A mean step of length zero offers nobody anything: that is zero disagreement, and no agreement exists.
        if radius > 0:
            given |= {"disagreement": gram.sum(1) / n, "radius": radius}
    return BargainingProblem(**given)


def _solve(problem: BargainingProblem, config: BargainConfig, start: np.ndarray | None) -> Solution:
    options: dict[str, Any] = {} if config.iterations is None else {"max_iter": config.iterations}
    how = "face" if config.on_no_agreement == "face" else "return"
    return nashsolve.solve(problem, solver=config.solver, start=start, on_failure=how, **options)


def _unscaled(solution: Solution, gram: np.ndarray, config: BargainConfig) -> tuple[np.ndarray, str]:
    """Coefficients before scaling, and the policy where the solver's answer is not used."""
    found = np.asarray(solution.coefficients, dtype=np.float64)
    # With a budget the iterate at its end is what was asked for, certified or not, if it helps every expert.
    budget = config.iterations is not None and solution.status is Status.MAX_ITER
    usable = bool(np.isfinite(found).all()) and bool((found > 0).all()) and bool((gram @ found > 0).all())
    if solution.success or (budget and usable):
        return found, ""
    policy: Policy = config.on_no_agreement
    if policy == "face" and "blocked" in solution.details:
        return found, "face"
    if policy == "uniform":
        return np.full(len(gram), 1 / len(gram)), policy
    if policy == "min_norm":
        return min_norm(gram), policy
    return np.zeros(len(gram)), "hold"


def min_norm(gram: np.ndarray) -> np.ndarray:
    r"""Weights of the shortest point of the hull, :math:`\arg\min_{y\ge0,\sum y=1} y^\top Ky`.

    Parameters
    ----------
    gram : (N, N) positive semidefinite

    Returns
    -------
    (N,) float64, sums to one
    """
    from scipy.optimize import nnls

    values, basis = np.linalg.eigh(gram)
    root = basis * np.sqrt(np.maximum(values, 0.0))
    size = np.sqrt(np.diagonal(gram).max()) or 1.0
    # min |y'root|^2 + |sum y - 1|^2 over y >= 0 has the direction of the minimiser on the simplex.
    y, _ = nnls(np.vstack([root.T / size, np.ones(len(gram))]), np.append(np.zeros(len(gram)), 1.0))
    return y / y.sum()


def check_finite(gram: np.ndarray, where: str) -> None:
    """Raise InvalidProblem naming the first expert whose domain vector is not finite."""
    bad = np.flatnonzero(~np.isfinite(np.diagonal(gram)))
    if len(bad):
        raise InvalidProblem(f"expert {bad[0]} or the base expert of {where} holds NaN or Inf (or overflows)")


def _plain(values: Any) -> list[float | None] | None:
    numbers = np.asarray(values, dtype=np.float64)
    return None if np.isnan(numbers).all() else [_number(v) for v in numbers]


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
