r"""The judge: gap, error bounds, margin and certificates for any alpha, from anywhere.

For multipliers a = alpha the ball's best answer is :math:`x = r\,Ga/\|Ga\|`, with gains :math:`s = G^\top x - d`.
With :math:`t = a s / w - 1` the duality gap is exactly :math:`\sum_i w_i (t_i - \log(1 + t_i))`, so nothing cancels
and no second solve is needed. Every bound here adds the rounding error of its own evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import arrays
from .arrays import EPS64, Array
from .errors import InvalidProblem
from .problem import BargainingProblem

_BLOCK = 1024
"""Columns a product may sum at once, so that its rounding bound does not grow with p."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What the core found out about one alpha; all arrays float64, (...) or (..., n)."""

    alpha: Array
    ball_multiplier: Array
    coefficients: Array
    utilities: Array
    gains: Array
    log_nash_product: Array
    gap: Array
    backward_error: Array
    error_bound: Array
    angle_bound: Array
    margin: Array
    margin_lower: Array
    resolution: Array
    simplex: Array
    radius_needed: Array


def verify(problem: BargainingProblem, alpha: Any, coefficients: Any = None) -> Certificate:
    r"""Judge any alpha, from anywhere, by the data alone.

    Parameters
    ----------
    problem : BargainingProblem
    alpha : (..., n) multipliers `w / gains`, >= 0
    coefficients : (..., n), optional
        Of the agreed point; only needed where the ball is inactive (multiplier zero), else ``alpha / lambda``.

    Returns
    -------
    Certificate
        `gap` = sum w (t - log(1 + t)); `error_bound` on every ``|alpha_i / exact - 1|``, rigorous in rounding;
        `backward_error` componentwise; `margin` and `margin_lower`, the two sides of the distance to
        no agreement; `angle_bound` (radians) between the returned and the exact point; `simplex` = alpha on the
        simplex, the no-agreement certificate where `margin` is not above `resolution`.

    Raises
    ------
    InvalidProblem
        For a wrong shape or a negative entry.
    """
    xp = problem.xp
    value, _ = arrays.as_float64(alpha, "alpha", xp, problem.unit_gram)
    if value.ndim < 1 or value.shape[-1] != problem.n:
        raise InvalidProblem(f"alpha has shape {tuple(value.shape)}; the last axis must be {problem.n} players")
    if bool(xp.any(value < 0)):
        raise InvalidProblem("alpha has negative entries; multipliers w / gains are positive")
    if coefficients is not None:
        coefficients, _ = arrays.as_float64(coefficients, "coefficients", xp, problem.unit_gram)
    with arrays.quiet(xp):
        return _certify(problem, value, coefficients)


def _products(problem: BargainingProblem, a: Array) -> tuple[Array, Array, Array]:
    """Utilities A a, the length |G a|, and the rounding factor of both."""
    xp, n = problem.xp, problem.n
    if problem.white is None:
        u = arrays.matvec(problem.gram, a, xp)
        q = xp.sum(a * u, axis=-1)
        return u, xp.sqrt(xp.where(q > 0, q, xp.zeros_like(q))), (n + 3) * EPS64 + problem.gram_error
    rows, p = problem.white, problem.white.shape[-1]
    u, q = xp.zeros_like(a), xp.zeros_like(a[..., 0] if n else a.sum(-1))
    for begin in range(0, p, _BLOCK):
        part = rows[..., begin : begin + _BLOCK]
        y = arrays.matvec(xp.matrix_transpose(part), a, xp)
        u = u + arrays.matvec(part, y, xp)
        q = q + xp.sum(y * y, axis=-1)
    return u, xp.sqrt(q), (n + min(p, _BLOCK) + -(-p // _BLOCK) + 4) * EPS64


def _certify(problem: BargainingProblem, alpha: Array, coefficients: Array | None) -> Certificate:
    xp = problem.xp
    w, r = problem.present, problem.ball_radius
    here = w > 0
    a = xp.where(here, alpha, xp.zeros_like(alpha))
    if problem.invalid is not None:
        a = xp.where(problem.invalid[..., None], xp.full_like(a, xp.nan), a)
    d = problem.disagreement if problem.disagreement is not None else xp.zeros_like(a)
    norms = xp.sqrt(xp.linalg.diagonal(problem.unit_gram)) / problem.scale
    hat = a * norms
    total = xp.sum(hat, axis=-1)
    u, length, unit = _products(problem, a)
    multiplier = length / r
    theta = 1 / multiplier
    c = a * theta[..., None]
    u_point, slack = u * theta[..., None], xp.zeros_like(length)
    if coefficients is not None:
        inactive = xp.any(coefficients != 0, axis=-1)
        c = xp.where(inactive[..., None], coefficients, c)
        u_in, x_length, unit_in = _products(problem, c)
        u_point = xp.where(inactive[..., None], u_in, u_point)
        outside = inactive & (x_length > r * (1 + 1e-12))
        slack = xp.where(outside, xp.full_like(slack, xp.inf), slack)
        multiplier = xp.where(inactive, xp.zeros_like(multiplier), multiplier)
        theta = xp.where(inactive, xp.zeros_like(theta), theta)
    reach = xp.sum(xp.abs(c) * norms, axis=-1)
    wobble = unit * total / length if problem.white is not None else unit * (total / length) ** 2
    wobble = xp.where(theta > 0, wobble, xp.zeros_like(length))
    error_u = unit * norms * reach[..., None] + xp.abs(u_point) * (wobble[..., None] + 4 * EPS64)
    gains = u_point - d
    error_s = error_u + EPS64 * (xp.abs(u_point) + xp.abs(d))
    safe_w = xp.where(here, w, xp.ones_like(w))
    t = xp.where(here, a * gains / safe_w - 1, xp.zeros_like(a))
    t_up = xp.abs(t) + xp.where(here, a * error_s / safe_w + 4 * EPS64, xp.zeros_like(a))
    infinite = xp.full_like(t_up, xp.inf)
    gap = xp.sum(w * _phi(t, xp), axis=-1)
    phi_up = xp.where(t_up < 1, _phi(-xp.where(t_up < 1, t_up, 0 * t_up), xp), infinite)
    gap_up = xp.sum(xp.where(here, w * phi_up, 0 * phi_up), axis=-1)
    root = xp.sqrt(2 * gap_up[..., None] / safe_w)
    bound = xp.where(root < 1, (1 + t_up) / (1 - xp.where(root < 1, root, 0 * root)) - 1, infinite)
    bound = xp.where(here, bound, xp.zeros_like(bound))
    if coefficients is not None:
        root_in, gap_in = _inside_bound(problem, a, gains, t, t_up, safe_w, unit_in, xp)
        bound = xp.where(inactive[..., None], (1 + t_up) * (1 + root_in) - 1, bound) + slack[..., None]
        gap = xp.where(inactive, gap_in, gap) + slack
        gap_up = xp.where(inactive, gap_in, gap_up) + slack
    weight = xp.sum(w, axis=-1)
    size = norms * r[..., None] + xp.abs(d)
    k = r * length - xp.sum(d * a, axis=-1)
    spread = xp.sum(a * size, axis=-1)
    ratio = length / total
    noise = problem.noise
    resolution = xp.where(ratio**2 > noise, noise / ratio, xp.full_like(ratio, noise**0.5))
    lower = xp.where(here & (size > 0), (gains - error_s) / size, infinite)
    low = xp.where(here, xp.abs(d) + safe_w / a, xp.ones_like(a))
    return Certificate(
        alpha=a,
        ball_multiplier=multiplier,
        coefficients=c,
        utilities=xp.where(here, u_point, 0 * u_point),
        gains=xp.where(here, gains, 0 * gains),
        log_nash_product=xp.sum(xp.where(here, w * xp.log(gains), 0 * gains), axis=-1),
        gap=gap,
        backward_error=_largest(xp.where(here, xp.abs(gains - safe_w / a), 0 * a) / (norms * reach[..., None] + low), xp),
        error_bound=bound,
        angle_bound=xp.sqrt(gap_up / weight),
        margin=k / spread,
        margin_lower=_smallest(lower, xp),
        resolution=resolution,
        simplex=a / xp.sum(a, axis=-1)[..., None],
        radius_needed=_radius_needed(a, d, length, xp),
    )


def _inside_bound(
    problem: BargainingProblem, a: Array, s: Array, t: Array, t_up: Array, w: Array, unit: float, xp: Any
) -> tuple[Array, Array]:
    r"""Inactive ball: bounds from the Newton decrement, for the gradient is G a = G v with v = A^+ A a.

    For any such v the decrement is at most \|v s / sqrt(w)\|, so no solve through the vectors is needed.
    """
    b, hat = problem.unit_gram, a / problem.scale
    v = arrays.matvec(xp.linalg.pinv(b), arrays.matvec(b, hat, xp), xp) * problem.scale
    v_up = xp.abs(v) + unit * xp.max(hat, axis=-1)[..., None] * problem.scale
    here = problem.present > 0
    terms = xp.where(here, v_up * s / xp.sqrt(w) + t_up * xp.sqrt(w), xp.zeros_like(s))
    decrement = xp.sqrt(xp.sum(terms * terms, axis=-1))
    least = xp.sqrt(xp.min(w, axis=-1))
    scaled = decrement / least
    good = scaled < 1
    scaled = xp.where(good, scaled, 0 * scaled)
    infinite = xp.full_like(scaled, xp.inf)
    root = xp.where(good[..., None], (decrement[..., None] / xp.sqrt(w)) / (1 - scaled)[..., None], infinite[..., None])
    return root, xp.where(good, least**2 * _phi(-scaled, xp), infinite)


def _phi(t: Array, xp: Any) -> Array:
    """t - log(1 + t) without cancellation near zero."""
    small = xp.abs(t) < 1e-4
    s = xp.where(small, t, 0 * t)
    series = s * s * (0.5 - s * (1 / 3 - s * (0.25 - 0.2 * s)))
    return xp.where(small, series, t - xp.log1p(xp.where(small, 0 * t, t)))


def _radius_needed(a: Array, d: Array, length: Array, xp: Any) -> Array:
    """Lower bound d'y / |G y| on the radius at which this y stops blocking; inf where no radius helps."""
    reach = xp.sum(d * a, axis=-1)
    zero = xp.zeros_like(reach)
    return xp.where(reach > 0, reach / length, zero)


def _largest(x: Array, xp: Any) -> Array:
    return xp.max(x, axis=-1) if x.shape[-1] else xp.sum(x, axis=-1)


def _smallest(x: Array, xp: Any) -> Array:
    return xp.min(x, axis=-1) if x.shape[-1] else xp.sum(x, axis=-1) + xp.inf


def support_gap(weights: Array, gains: Array, support: Array, xp: Any) -> Array:
    """Gap of any point of any convex set, ``W log(1 + gamma / W)``, from gamma = max_v sum w (v - d) / gain - W."""
    total = xp.sum(weights, axis=-1)
    gamma = support - total
    return total * xp.log1p(xp.where(gamma > 0, gamma, 0 * gamma) / total)
