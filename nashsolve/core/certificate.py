r"""The judge: gap, error bounds, margin and certificates for any alpha, from anywhere.

For multipliers a = alpha the ball's best answer is :math:`x = r\,Ga/\|Ga\|`, with gains :math:`s = G^\top x - d`.
With :math:`t = a s / w - 1` the duality gap is exactly :math:`\sum_i w_i (t_i - \log(1 + t_i))`, so nothing cancels
and no second solve is needed; on the best multiple of a it is W KL(p || q) with p = w / W and q = a s / sum(a s).
Every bound here adds the rounding error of its own evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from . import arrays
from .arrays import EPS64, Array
from .errors import InvalidProblem
from .problem import BargainingProblem

_UNIT = EPS64 / 2
_COLUMNS = 512
_PLAYERS = 32
"""Columns and players that a product sums at once at least, so that its rounding bound hardly grows with p and n."""


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
    at_floor: Array
    point: Array | None = None


def verify(problem: BargainingProblem, alpha: Any, coefficients: Any = None) -> Certificate:
    r"""Judge any alpha, from anywhere, by the data alone.

    Parameters
    ----------
    problem : BargainingProblem
    alpha : (..., n) multipliers `w / gains`, >= 0
    coefficients : (..., n), optional
        Of the agreed point; only needed where the ball is inactive (multiplier zero), NaN for the other items of a
        batch, whose point is ``alpha / lambda``.

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
    """Utilities A a and the length |G a|, with the absolute rounding error of one and the relative of the other.

    A sum of k terms is wrong by at most k u of the sum of their sizes, in whatever order a library adds them; so the
    products run over blocks of columns and of players, and k is the block's length plus the number of blocks.
    """
    xp, n = problem.xp, problem.n
    if problem.white is None:
        u = arrays.matvec(problem.gram, a, xp)
        q = xp.sum(a * u, axis=-1)
        norms = problem.norms
        error = (n + 3) * _UNIT * arrays.matvec(xp.abs(problem.gram), xp.abs(a), xp)
        error = error + problem.gram_error * norms * xp.sum(xp.abs(a) * norms, axis=-1)[..., None]
        wrong = xp.sum(xp.abs(a) * error, axis=-1) / q
        return u, xp.sqrt(xp.where(q > 0, q, xp.zeros_like(q))), error, wrong
    rows, p = problem.white, problem.white.shape[-1]
    norms = problem.norms
    u, q = xp.zeros_like(a), xp.zeros_like(a[..., 0] if n else xp.sum(a, axis=-1))
    columns = max(_COLUMNS, math.isqrt(p))  # where the length of a block and their number make the smallest sum
    for begin in range(0, p, columns):
        part = rows[..., begin : min(begin + columns, p)]
        y = _combine(part, a, n, xp)
        u = u + arrays.matvec(part, y, xp)
        q = q + xp.sum(y * y, axis=-1)
    length = xp.sqrt(q)
    terms = (min(p, columns) + -(-p // columns) + 4) * _UNIT
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


def certify(problem: BargainingProblem, alpha: Array, coefficients: Array | None) -> Certificate:
    """`verify` without reading its arguments: what solve() runs on every raw answer."""
    xp, mask = problem.xp, problem.mask
    w, r = problem.power, problem.ball_radius

    def present(x: Array, fill: Array) -> Array:
        return x if mask is None else xp.where(mask, x, fill)

    w_sum = present(w, 0 * w)
    a = present(alpha, 0 * alpha)
    if problem.invalid is not None:
        a = xp.where(problem.invalid[..., None], xp.full_like(a, xp.nan), a)
    d = problem.disagreement
    norms = problem.norms
    u, length, error_u, wobble = _products(problem, a)
    multiplier = length / r
    c = a / multiplier[..., None]
    point_u = u / multiplier[..., None]
    error_u = error_u / multiplier[..., None]
    inside = None if coefficients is None else _Inside(problem, coefficients, xp)
    if inside is not None:
        c, point_u, error_u, wobble, multiplier = inside.replace(c, point_u, error_u, wobble, multiplier)
    error_s = error_u + xp.abs(point_u) * (wobble + 5 * EPS64)[..., None]
    gains = point_u if d is None else point_u - d
    error_s = error_s if d is None else error_s + EPS64 * xp.abs(d)
    share = a / w
    t = present(share * gains - 1, 0 * a)
    t_up = present(xp.abs(t) + share * error_s + 4 * EPS64, 0 * a)
    weight = xp.sum(w_sum, axis=-1)
    ray = xp.sum(w_sum * t, axis=-1) / weight
    gap = xp.sum(w_sum * _phi((t - ray[..., None]) / (1 + ray)[..., None], xp), axis=-1)
    gap_up = xp.sum(w_sum * _phi_above(t_up, xp), axis=-1)
    rounding = t_up - xp.abs(t)
    at_floor = xp.sum(w_sum * t * t, axis=-1) <= 4 * xp.sum(w_sum * rounding * rounding, axis=-1)
    root = xp.sqrt(2 * gap_up[..., None] / w)
    bound = present(xp.where(root < 1, (1 + t_up) / (1 - root) - 1, xp.inf * xp.ones_like(root)), 0 * a)
    if inside is not None:
        bound, gap, gap_up = inside.bounds(problem, a, gains, t_up, bound, gap, gap_up)
    size = norms * r[..., None] if d is None else norms * r[..., None] + xp.abs(d)
    size = xp.where(size > 0, size, r[..., None] / problem.scale)
    spread = xp.sum(a * size, axis=-1)
    reach = r * length
    ratio = reach / spread
    noise = problem.noise
    resolution = noise / xp.where(ratio > noise**0.5, ratio, noise**0.5 + 0 * ratio)
    refused = 0 * reach if d is None else xp.sum(d * a, axis=-1)
    scale_s = norms * xp.sum(xp.abs(c) * norms, axis=-1)[..., None] + 1 / share
    scale_s = scale_s if d is None else scale_s + xp.abs(d)
    residual = present(xp.abs(gains - 1 / share) / scale_s, 0 * a)
    return Certificate(
        alpha=a,
        ball_multiplier=multiplier,
        coefficients=c,
        utilities=present(point_u, 0 * a),
        gains=present(gains, 0 * a),
        log_nash_product=xp.sum(present(w * xp.log(gains), 0 * a), axis=-1),
        gap=gap,
        backward_error=_largest(residual, xp),
        error_bound=bound,
        angle_bound=xp.sqrt(gap_up / weight),
        margin=(reach - refused) / spread,
        margin_lower=_smallest(present((gains - error_s) / size, xp.inf + 0 * a), xp),
        resolution=resolution,
        simplex=a / xp.sum(a, axis=-1)[..., None],
        radius_needed=_radius_needed(refused, length, ratio <= 10 * resolution, xp),
        effective_weights=a * (present(gains, 0 * a) if d is not None else u * (r**2 / weight)[..., None]),
        at_floor=at_floor,
    )


class _Inside:
    """Items whose ball is inactive: their point is given by coefficients, not by alpha; those of the others are NaN."""

    def __init__(self, problem: BargainingProblem, coefficients: Array, xp: Any) -> None:
        self.xp = xp
        self.item = xp.all(xp.isfinite(coefficients), axis=-1)
        self.coefficients = coefficients = xp.where(self.item[..., None], coefficients, xp.zeros_like(coefficients))
        self.utilities, self.length, self.error, _ = _products(problem, coefficients)
        outside = self.item & (self.length > problem.ball_radius * (1 + 1e-12))
        self.slack = xp.where(outside, xp.inf + 0 * self.length, 0 * self.length)

    def replace(self, c: Array, u: Array, error: Array, wobble: Array, multiplier: Array) -> tuple[Array, ...]:
        """The point's coefficients, utilities, rounding errors and multiplier."""
        where, item = self.xp.where, self.item
        return (
            where(item[..., None], self.coefficients, c),
            where(item[..., None], self.utilities, u),
            where(item[..., None], self.error, error),
            where(item, self.xp.zeros_like(wobble), wobble),
            where(item, self.xp.zeros_like(multiplier), multiplier),
        )

    def bounds(
        self,
        problem: BargainingProblem,
        a: Array,
        s: Array,
        t_up: Array,
        bound: Array,
        gap: Array,
        gap_up: Array,
    ) -> tuple[Array, Array, Array]:
        r"""From the Newton decrement: the gradient is G a = G v with v = A^+ A a.

        For any such v the decrement is at most \|v s / sqrt(w)\|, so no solve through the vectors is needed.
        """
        xp, w = self.xp, problem.power
        hat = a / problem.scale
        v = arrays.matvec(xp.linalg.pinv(problem.unit_gram), arrays.matvec(problem.unit_gram, hat, xp), xp)
        v = xp.abs(v) + 4 * (problem.n + 4) * EPS64 * xp.max(hat, axis=-1)[..., None]
        terms = v * problem.scale * s / xp.sqrt(w) + t_up * xp.sqrt(w)
        terms = terms if problem.mask is None else xp.where(problem.mask, terms, 0 * terms)
        decrement = xp.sqrt(xp.sum(terms * terms, axis=-1))
        least = xp.sqrt(xp.min(w, axis=-1))
        scaled = decrement / least
        root = (decrement[..., None] / xp.sqrt(w)) / (1 - scaled)[..., None]
        root = xp.where((scaled < 1)[..., None], root, xp.inf + 0 * root)
        gap_in = least**2 * _phi_above(scaled, xp)
        return (
            xp.where(self.item[..., None], (1 + t_up) * (1 + root) - 1, bound) + self.slack[..., None],
            xp.where(self.item, gap_in, gap) + self.slack,
            xp.where(self.item, gap_in, gap_up) + self.slack,
        )


def _phi(t: Array, xp: Any) -> Array:
    """t - log(1 + t) without cancellation near zero."""
    series = t * t * (0.5 - t * (1 / 3 - t * (0.25 - 0.2 * t)))
    return xp.where(xp.abs(t) < 1e-4, series, t - xp.log1p(t))


def _phi_above(t: Array, xp: Any) -> Array:
    """The larger of phi(t) and phi(-t), for 0 <= t: an upper bound where |t| is only bounded; inf from 1 on."""
    return xp.where(t < 1, _phi(-t, xp), xp.inf * xp.ones_like(t))


def _radius_needed(refused: Array, length: Array, stuck: Array, xp: Any) -> Array:
    """Lower bound d'y / |G y| on the radius at which this y stops blocking; inf where no radius helps."""
    needed = xp.where(refused > 0, refused / length, 0 * refused)
    return xp.where(stuck & (refused >= 0), xp.inf + needed, needed)


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
    xp, w, r = problem.xp, problem.power, problem.ball_radius
    u = arrays.matvec(problem.white, point, xp)
    d = problem.disagreement if problem.disagreement is not None else xp.zeros_like(u)
    gains = u - d
    total = xp.sum(w, axis=-1)
    gamma = support - total
    gap = total * xp.log1p(xp.where(gamma > 0, gamma, 0 * gamma) / total)
    root = xp.sqrt(2 * gap[..., None] / w)
    alpha = w / gains
    base = certify(problem, xp.where(gains > 0, alpha, xp.zeros_like(alpha)), None)
    size = problem.norms * r[..., None] + xp.abs(d)
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
        margin=xp.where(margin > 0, margin, xp.nan * margin),  # a bad point proves nothing about agreement
        margin_lower=margin,
        effective_weights=w,
        at_floor=gap != gap,
        point=point,
    )
