r"""The judge for any convex set, by its support function.

Let s be the gains at a feasible point and :math:`h(y) = \max_{v \in S} y^\top v` a bound computed without trust in the
solver. A concept that maximizes the concave f has :math:`f^* - f \le h(\nabla f) - \nabla f^\top u`; for the log Nash
product, with :math:`\gamma = h(w / s) - (w / s)^\top d - W`, Jensen sharpens this to :math:`W \log(1 + \gamma / W)`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .arrays import EPS64
from .certificate import Certificate

_NAN = np.float64(np.nan)
_STEPS = 200
"""Halvings that bring a bracket of a ratio to rounding."""


def certify_fair(problem: Any, utilities: Any, support: float, aversion: float = 1.0, point: Any = None) -> Certificate:
    r"""Judge a point as the maximizer of the alpha-fair welfare of the gains; aversion 1 is the log Nash product.

    Parameters
    ----------
    problem : any problem with n players, `power` (n,) and `disagreement` (n,) or None
    utilities : (n,) at the point
    support : upper bound of ``sum_i w_i gains_i**-aversion * v_i`` over the feasible set
    aversion : > 0, the exponent a of ``sum w_i gains_i**(1 - a) / (1 - a)``
    point : anything that describes the agreement, kept in the answer

    Returns
    -------
    Certificate
        With `gap` in units of the welfare, and `error_bound` on the relative error of every gain, either way.

    Notes
    -----
    Called where arithmetic is quiet: a point that nobody gains from divides by zero, and its certificate says so.
    """
    w = np.asarray(problem.power, dtype=float)
    d = _disagreement(problem)
    gains = utilities - d
    least = float(gains.min())
    good = least > 0 and math.isfinite(support)
    slope = w / gains if aversion == 1 else w * gains**-aversion
    shares = slope * gains
    sizes = abs(utilities) + abs(d)
    weight = float(shares.sum())
    length, reach = (weight, slope) if good else (float(abs(shares).sum()), abs(slope))
    rounding = 4 * EPS64 * float(reach @ sizes)
    gamma = max(support - (float(slope @ d) + weight), 0.0) + rounding
    total = float(w.sum())
    gap = total * math.log1p(gamma / total) if aversion == 1 and good else gamma
    bound = ratio_bound(gap / shares, aversion) if good else np.full(len(w), np.inf)
    slope = slope if good else np.where(gains > 0, slope, 0.0)
    backward = gap / max(length, 1e-300)
    # the square root of rounding: more digits than that no gap can certify
    floor = np.bool_(good and gamma <= 16 * rounding)
    gap = gap if good else np.inf
    known = {"at_floor": floor, "effective_weights": shares} if good else {"at_floor": floor}
    return _proof(problem, utilities, slope, gap, bound, backward, point, (gains, sizes, least), **known)


def certify_value(
    problem: Any, utilities: Any, multipliers: Any, value: float, upper: float, point: Any = None
) -> Certificate:
    """Judge a point by the value that it reaches and a bound that no feasible point passes.

    `gap` is their difference and `error_bound` that difference relative to the value, the same for every player.
    """
    size = max(abs(value), abs(upper), EPS64 * float(np.abs(utilities).max()))
    gap = max(upper - value, 0.0)
    relative = gap / size if np.isfinite(gap) and size > 0 else (0.0 if gap == 0 else np.inf)
    # such a concept may leave a player without a gain, so gains say nothing about success
    sure = np.float64(1.0)
    bound = np.full(problem.n, relative)
    return _proof(problem, utilities, multipliers, gap, bound, relative, point, margin_lower=sure)


def certify_blocked(problem: Any, multipliers: Any, upper: float, size: Any, resolution: float = 0.0) -> Certificate:
    """Judge multipliers y as a proof that nobody can agree: ``upper`` bounds the sum of y (u - d) over the set.

    `size` (n,) is how large the players' gains can be; the margin is relative to it. `resolution` is the margin below
    which the solver that found y cannot tell agreement from none.
    """
    y = np.asarray(multipliers, dtype=float)
    y = y / y.sum()
    margin = upper / float(y @ size)
    nan = np.full(problem.n, np.nan)
    return _proof(
        problem,
        nan,
        nan,
        np.inf,
        nan + np.inf,
        np.inf,
        None,
        margin=np.float64(margin),
        margin_lower=np.float64(min(margin, 0.0)),
        simplex=y,
        resolution=np.float64(max(resolution, _resolution(problem.n))),
    )


def ratio_bound(excess: Any, aversion: float) -> Any:
    r"""How far a ratio r of gains can be from one when :math:`r - 1 - \int_1^r t^{-a} dt` is at most `excess`.

    Returns the larger of ``r - 1`` and ``1 / r - 1``, entry by entry; inf where r may reach zero.
    """
    excess = np.asarray(excess, dtype=float)
    root = np.sqrt(excess * (2 / aversion))
    largest = float(root.max(initial=0.0))
    far, power = 1 + 2 * root, (1 + aversion) / 2
    if largest < 0.5 and (1 + 2 * largest) ** power <= 2:
        # the second derivative a t**(-a - 1) is at least a below one, and at least a far**-2 up to 1 + 2 root
        if aversion == 1:
            return root * far  # which is the larger one, since (1 - r) (1 + 2 r) >= 1 for r up to one half
        return np.maximum(root / (1 - root), root * far**power)

    def lost(r: Any) -> Any:
        integral = np.log(r) if aversion == 1 else (r ** (1 - aversion) - 1) / (1 - aversion)
        small = abs(r - 1) < 1e-4
        e = r - 1
        series = aversion * e * e * (0.5 - (1 + aversion) * e / 6)
        return np.where(small, series, r - 1 - integral)

    low, high = np.zeros_like(excess), np.ones_like(excess)
    with np.errstate(all="ignore"):
        for _ in range(64):  # the smallest ratio below one
            middle = (low + high) / 2
            far = lost(middle) > excess
            low, high = np.where(far, middle, low), np.where(far, high, middle)
        below = 1 / low - 1
        root = np.sqrt(2 * excess / aversion)
        above = root * (1 + root) ** aversion if aversion <= 1 else root
        high = 1 + np.maximum(above, 1e-300)
        for _ in range(_STEPS):
            short = lost(high) < excess
            if not short.any():
                break
            high = np.where(short, 1 + 2 * (high - 1), high)
    return np.maximum(np.where(low > 0, below, np.inf), high - 1)


def _disagreement(problem: Any) -> Any:
    d = problem.disagreement
    return np.zeros(problem.n) if d is None else np.asarray(d, dtype=float)


@lru_cache(maxsize=64)
def _nothing(n: int) -> Any:
    """(n,) NaN, read-only, for what a family of problems does not have."""
    found = np.full(n, np.nan)
    found.setflags(write=False)
    return found


def _resolution(n: int) -> float:
    return 32 * max(n, 1) * EPS64


def _proof(
    problem: Any,
    utilities: Any,
    multipliers: Any,
    gap: float,
    bound: Any,
    backward: float,
    point: Any,
    measured: tuple[Any, Any, float] | None = None,
    **known: Any,
) -> Certificate:
    """What every certificate here holds; `known` stands in for what can be said better.

    measured : gains, the sizes of what they are differences of, and the least gain, where the caller has them
    """
    n = problem.n
    if measured is None:
        d = _disagreement(problem)
        gains = utilities - d
        measured = gains, abs(utilities) + abs(d), float(gains.min())
    gains, sizes, least = measured
    product = problem.power @ np.log(gains) if least > 0 else -np.inf
    # a player who gains has a size
    lower = gains / sizes if least > 0 else gains / np.where(sizes > 0, sizes, 1.0)
    multipliers = np.asarray(multipliers, dtype=float)
    total = float(multipliers.sum())
    nothing = _nothing(n)
    values: dict[str, Any] = dict(
        alpha=multipliers,
        ball_multiplier=_NAN,
        coefficients=nothing,
        utilities=utilities,
        gains=gains,
        log_nash_product=np.float64(product),
        gap=np.float64(gap),
        backward_error=np.float64(backward),
        error_bound=bound,
        angle_bound=_NAN,
        margin=_NAN,
        margin_lower=lower.min(),
        resolution=np.float64(_resolution(n)),
        simplex=multipliers / total if total > 0 else nothing,
        radius_needed=_NAN,
        at_floor=np.bool_(False),
        point=point,
    )
    proof = object.__new__(Certificate)  # whose own __init__ would set the fields one by one
    proof.__dict__.update(values)
    proof.__dict__.update(known)
    if "effective_weights" not in known:
        proof.__dict__["effective_weights"] = multipliers * gains
    return proof
