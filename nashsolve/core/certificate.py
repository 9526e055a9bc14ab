r"""The judge: gap, error bounds, margin and certificates for any alpha, from anywhere.

For multipliers a = alpha the ball's best answer is :math:`x = r\,Ga/\|Ga\|`, with gains :math:`s = G^\top x - d`.
With :math:`t = a s / w - 1` the duality gap is exactly :math:`\sum_i w_i (t_i - \log(1 + t_i))`, so nothing cancels
and no second solve is needed. Every bound here adds the rounding error of its own evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from . import arrays
from .arrays import EPS64, Array
from .errors import InvalidProblem
from .problem import BargainingProblem

_UNIT = EPS64 / 2
_COLUMNS = 512
_PLAYERS = 32
"""Columns and players that a product sums at once, so that its rounding bound hardly grows with p and n."""


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
    effective_weights: Array
    point: Array | None = None


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
        return certify(problem, value, coefficients)


def _products(problem: BargainingProblem, a: Array) -> tuple[Array, Array, Array, Array]:
    """Utilities A a and the length |G a|, with bounds on the absolute rounding error of one and the relative of the other.

    A sum of k terms is wrong by at most k u of the sum of their sizes, in whatever order a library adds them; so the
    products run over blocks of columns and of players, and k is the block's length plus the number of blocks.
    """
    xp, n = problem.xp, problem.n
    if problem.white is None:
        u = arrays.matvec(problem.gram, a, xp)
        q = xp.sum(a * u, axis=-1)
        norms = _norms(problem)
        error = (n + 3) * _UNIT * arrays.matvec(xp.abs(problem.gram), xp.abs(a), xp)
        error = error + problem.gram_error * norms * xp.sum(xp.abs(a) * norms, axis=-1)[..., None]
        wrong = xp.sum(xp.abs(a) * error, axis=-1) / q
        return u, xp.sqrt(xp.where(q > 0, q, xp.zeros_like(q))), error, wrong
    rows, p = problem.white, problem.white.shape[-1]
    norms = _norms(problem)
    u, q = xp.zeros_like(a), xp.zeros_like(a[..., 0] if n else xp.sum(a, axis=-1))
    for begin in range(0, p, _COLUMNS):
        part = rows[..., begin : min(begin + _COLUMNS, p)]
        y = _combine(part, a, n, xp)
        u = u + arrays.matvec(part, y, xp)
        q = q + xp.sum(y * y, axis=-1)
    length = xp.sqrt(q)
    terms = (min(p, _COLUMNS) + -(-p // _COLUMNS) + 4) * _UNIT
    players = (min(n, _PLAYERS) + -(-n // _PLAYERS) + 4) * _UNIT
    spread = players * xp.sum(xp.abs(a) * norms, axis=-1)
    return u, length, norms * (terms * length + spread)[..., None], terms + spread / length


def _combine(rows: Array, a: Array, n: int, xp: Any) -> Array:
    """sum_i a_i rows_i over blocks of players."""
    across = xp.matrix_transpose(rows)
    parts = [slice(i, min(i + _PLAYERS, n)) for i in range(0, n, _PLAYERS)] or [slice(0, 0)]
    total = arrays.matvec(across[..., parts[0]], a[..., parts[0]], xp)
    for part in parts[1:]:
        total = total + arrays.matvec(across[..., part], a[..., part], xp)
    return total


def _norms(problem: BargainingProblem) -> Array:
    """Lengths of the players' vectors."""
    return problem.xp.sqrt(problem.xp.linalg.diagonal(problem.unit_gram)) / problem.scale


def certify(problem: BargainingProblem, alpha: Array, coefficients: Array | None) -> Certificate:
    """`verify` without reading its arguments: what solve() runs on every raw answer."""
    xp = problem.xp
    w, r = problem.present, problem.ball_radius
    here = w > 0
    a = xp.where(here, alpha, xp.zeros_like(alpha))
    if problem.invalid is not None:
        a = xp.where(problem.invalid[..., None], xp.full_like(a, xp.nan), a)
    d = problem.disagreement if problem.disagreement is not None else xp.zeros_like(a)
    norms = _norms(problem)
    u, length, error_u, wobble = _products(problem, a)
    multiplier = length / r
    theta = 1 / multiplier
    c = a * theta[..., None]
    u_point, slack = u * theta[..., None], xp.zeros_like(length)
    if coefficients is not None:
        inactive = xp.any(coefficients != 0, axis=-1)
        c = xp.where(inactive[..., None], coefficients, c)
        u_in, x_length, error_in, _ = _products(problem, c)
        u_point = xp.where(inactive[..., None], u_in, u_point)
        outside = inactive & (x_length > r * (1 + 1e-12))
        slack = xp.where(outside, xp.full_like(slack, xp.inf), slack)
        multiplier = xp.where(inactive, xp.zeros_like(multiplier), multiplier)
        theta = xp.where(inactive, xp.zeros_like(theta), theta)
        error_u = xp.where(inactive[..., None], error_in, error_u)
    reach = xp.sum(xp.abs(c) * norms, axis=-1)
    steady = theta > 0
    theta, wobble = xp.where(steady, theta, xp.ones_like(theta)), xp.where(steady, wobble, xp.zeros_like(wobble))
    error_u = error_u * theta[..., None] + xp.abs(u_point) * (wobble[..., None] + 4 * EPS64)
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
        root_in, gap_in = _inside_bound(problem, a, gains, t_up, safe_w, xp)
        bound = xp.where(inactive[..., None], (1 + t_up) * (1 + root_in) - 1, bound) + slack[..., None]
        gap = xp.where(inactive, gap_in, gap) + slack
        gap_up = xp.where(inactive, gap_in, gap_up) + slack
    weight = xp.sum(w, axis=-1)
    size = norms * r[..., None] + xp.abs(d)
    k = r * length - xp.sum(d * a, axis=-1)
    size = xp.where(size > 0, size, r[..., None] / problem.scale)
    spread = xp.sum(a * size, axis=-1)
    ratio = length * r / spread
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
        effective_weights=a * gains * (1 if problem.disagreement is not None else (multiplier * r**2 / weight)[..., None]),
    )


def _inside_bound(
    problem: BargainingProblem, a: Array, s: Array, t_up: Array, w: Array, xp: Any
) -> tuple[Array, Array]:
    r"""Inactive ball: bounds from the Newton decrement, for the gradient is G a = G v with v = A^+ A a.

    For any such v the decrement is at most \|v s / sqrt(w)\|, so no solve through the vectors is needed.
    """
    b, hat = problem.unit_gram, a / problem.scale
    v = arrays.matvec(xp.linalg.pinv(b), arrays.matvec(b, hat, xp), xp) * problem.scale
    v_up = xp.abs(v) + 4 * (problem.n + 4) * EPS64 * xp.max(hat, axis=-1)[..., None] * problem.scale
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


def certify_point(problem: BargainingProblem, point: Array, support: Array) -> Certificate:
    r"""Judge a point of any convex subset of the ball, given what the subset's support function says about it.

    With gains s at the point and :math:`\\gamma = \\max_v \\sum_i w_i (v_i - d_i) / s_i - W` over the subset, the log
    Nash product can rise by at most :math:`W \\log(1 + \\gamma / W)`.

    Parameters
    ----------
    point : (p,) in the whitened coordinates of the problem
    support : the largest value of ``sum w (v - d) / s`` over the subset
    """
    xp, w, r = problem.xp, problem.present, problem.ball_radius
    u = arrays.matvec(problem.white, point, xp)
    d = problem.disagreement if problem.disagreement is not None else xp.zeros_like(u)
    gains = u - d
    total = xp.sum(w, axis=-1)
    gamma = support - total
    gap = total * xp.log1p(xp.where(gamma > 0, gamma, 0 * gamma) / total)
    root = xp.sqrt(2 * gap[..., None] / w)
    alpha = w / gains
    base = certify(problem, xp.where(gains > 0, alpha, xp.zeros_like(alpha)), None)
    size = _norms(problem) * r[..., None] + xp.abs(d)
    margin = _smallest(gains / size, xp)
    coefficients = arrays.matvec(xp.linalg.pinv(problem.unit_gram), u * problem.scale, xp) * problem.scale
    return replace(
        base,
        ball_multiplier=xp.full_like(gap, xp.nan),
        coefficients=coefficients,
        utilities=u,
        gains=gains,
        log_nash_product=xp.sum(w * xp.log(gains), axis=-1),
        gap=gap,
        backward_error=gap / total,
        error_bound=xp.where(root < 1, 1 / (1 - xp.where(root < 1, root, 0 * root)) - 1, xp.full_like(root, xp.inf)),
        angle_bound=xp.full_like(gap, xp.nan),
        margin=margin,
        margin_lower=margin,
        effective_weights=w,
        point=point,
    )
