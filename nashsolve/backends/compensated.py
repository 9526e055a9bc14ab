r"""The residual of ``a * (G G' a) = w`` through the vectors, as if computed in twice the working precision.

Players who are nearly opposed have large multipliers whose vectors nearly cancel: with margin m both products lose
:math:`\log_{10}(1/m)` digits, and with them the answer. Products and sums here keep what rounding takes away
[ogita_rump_oishi2005]_, so that Newton's corrections end at the accuracy of the vectors themselves.
"""

from __future__ import annotations

from typing import Any

from nashsolve.core.arrays import Array

_HALF = 2.0**27 + 1
"""Splits a float64 into two halves of 26 bits."""
_ENTRIES = 1 << 20
"""Products held at once."""


def residual(rows: Array, a: Array, w: Array, xp: Any) -> Array:
    """w - a * (rows @ (rows' @ a)) for rows (..., n, p), a and w (..., n), each entry right to rounding of w."""
    total, rest = xp.zeros_like(a), xp.zeros_like(a)
    n, p = rows.shape[-2:]
    width = max(1, _ENTRIES // max(n, 1))
    for begin in range(0, p, width):
        part = rows[..., begin : min(begin + width, p)]
        y, y_rest = _dot(xp.matrix_transpose(part), a[..., None, :], None, xp)
        u, u_rest = _dot(part, y[..., None, :], y_rest[..., None, :], xp)
        total, lost = _two_sum(total, u)
        rest = rest + (lost + u_rest)
    product, lost = _two_product(a, total)
    return ((w - product) - lost) - a * rest


def _dot(left: Array, right: Array, right_rest: Array | None, xp: Any) -> tuple[Array, Array]:
    """Sum of left * (right + right_rest) over the last axis, and what rounding left out of it."""
    value, rest = _two_product(left, right)
    if right_rest is not None:
        rest = rest + left * right_rest
    while value.shape[-1] > 1:
        half = value.shape[-1] // 2
        one, lost = _two_sum(value[..., :half], value[..., half : 2 * half])
        other = rest[..., :half] + rest[..., half : 2 * half] + lost
        if value.shape[-1] % 2:
            one, other = (xp.concat([new, old[..., -1:]], axis=-1) for new, old in ((one, value), (other, rest)))
        value, rest = one, other
    return _two_sum(value[..., 0], rest[..., 0])


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and the error [ogita_rump_oishi2005]_."""
    total = a + b
    shift = total - a
    return total, (a - (total - shift)) + (b - shift)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b rounded, and the error [dekker1971]_."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: Array) -> tuple[Array, Array]:
    wide = _HALF * a
    high = wide - (wide - a)
    return high, a - high
