"""Values with exact first and second derivatives, so that plain Python functions can be utilities.

A jet holds an array of shape S, its gradient S + (p,) and its Hessian S + (p, p) in the p coordinates of x. It takes
part in arithmetic, indexing and the NumPy functions that concave utilities are written with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidType

_SMOOTH: dict[str, Callable[[Any], tuple[Any, Any, Any]]] = {
    "exp": lambda v: (np.exp(v), np.exp(v), np.exp(v)),
    "expm1": lambda v: (np.expm1(v), np.exp(v), np.exp(v)),
    "log": lambda v: (np.log(v), 1 / v, -1 / v**2),
    "log2": lambda v: (np.log2(v), 1 / v / np.log(2), -1 / v**2 / np.log(2)),
    "log10": lambda v: (np.log10(v), 1 / v / np.log(10), -1 / v**2 / np.log(10)),
    "log1p": lambda v: (np.log1p(v), 1 / (1 + v), -1 / (1 + v) ** 2),
    "sqrt": lambda v: (np.sqrt(v), 0.5 / np.sqrt(v), -0.25 / v**1.5),
    "cbrt": lambda v: (np.cbrt(v), 1 / (3 * np.cbrt(v) ** 2), -2 / (9 * np.cbrt(v) ** 5)),
    "square": lambda v: (v**2, 2 * v, 2 + 0 * v),
    "sin": lambda v: (np.sin(v), np.cos(v), -np.sin(v)),
    "cos": lambda v: (np.cos(v), -np.sin(v), -np.cos(v)),
    "tanh": lambda v: (np.tanh(v), 1 - np.tanh(v) ** 2, -2 * np.tanh(v) * (1 - np.tanh(v) ** 2)),
    "arctan": lambda v: (np.arctan(v), 1 / (1 + v**2), -2 * v / (1 + v**2) ** 2),
    "negative": lambda v: (-v, -1 + 0 * v, 0 * v),
    "positive": lambda v: (v, 1 + 0 * v, 0 * v),
    "reciprocal": lambda v: (1 / v, -1 / v**2, 2 / v**3),
}


class Jet(np.lib.mixins.NDArrayOperatorsMixin):
    """Value, gradient and Hessian of an array-valued function of x."""

    def __init__(self, value: Any, gradient: Any, hessian: Any) -> None:
        self.value, self.gradient, self.hessian = value, gradient, hessian

    @classmethod
    def variable(cls, x: Any) -> Jet:
        """x itself, shape (p,)."""
        p = len(x)
        return cls(np.array(x, dtype=float), np.eye(p), np.zeros((p, p, p)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.value))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Jet:
        return Jet(self.value[key], self.gradient[key], self.hessian[key])

    def __bool__(self) -> bool:
        raise InvalidType("a utility branches on the value of x; write it without if, min, max or comparisons")

    __float__ = __bool__

    def sum(self, axis: int | None = None) -> Jet:
        """Sum over all entries, or over one axis >= 0."""
        axes = tuple(range(self.ndim)) if axis is None else (axis,)
        return Jet(self.value.sum(axis=axes), self.gradient.sum(axis=axes), self.hessian.sum(axis=axes))

    def mean(self) -> Jet:
        """Mean of all entries."""
        return self.sum() / max(int(np.prod(self.shape)), 1)

    def prod(self) -> Jet:
        """Product of the entries of a vector."""
        result = self[0]
        for i in range(1, len(self)):
            result = result * self[i]
        return result

    def dot(self, other: Any) -> Jet:
        """Inner product or product with a constant matrix."""
        return self @ other

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        name = ufunc.__name__
        if method == "reduce" and name == "add":
            axis = options.get("axis")
            return self.sum(axis if isinstance(axis, int) else None)
        if method != "__call__" or options:
            raise _unknown(f"{name}.{method}")
        if name in _SMOOTH and len(inputs) == 1:
            return self._apply(*_SMOOTH[name](self.value))
        if name in _BINARY:
            return _BINARY[name](*inputs)
        raise _unknown(name)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        name = function.__name__
        if name in ("sum", "mean", "prod") and isinstance(inputs[0], Jet):
            return getattr(inputs[0], name)(**options)
        if name == "dot":
            return _matmul(*inputs)
        raise _unknown(name)

    def _apply(self, value: Any, first: Any, second: Any) -> Jet:
        g = self.gradient
        outer = g[..., :, None] * g[..., None, :]
        hessian = np.asarray(first)[..., None, None] * self.hessian + np.asarray(second)[..., None, None] * outer
        return Jet(value, np.asarray(first)[..., None] * g, hessian)


def _unknown(name: str) -> InvalidType:
    known = ", ".join(sorted(_SMOOTH))
    return InvalidType(
        f"a utility uses numpy.{name}, which has no second derivative here; use {known}, arithmetic, powers, sums "
        "and @, or write the utility with CVXPY"
    )


def _parts(a: Any) -> tuple[Any, Any, Any]:
    if isinstance(a, Jet):
        return a.value, a.gradient, a.hessian
    value = np.asarray(a, dtype=float)
    return value, np.zeros((*value.shape, 1)), np.zeros((*value.shape, 1, 1))


def _add(a: Any, b: Any) -> Jet:
    (va, ga, ha), (vb, gb, hb) = _parts(a), _parts(b)
    return Jet(va + vb, ga + gb, ha + hb)


def _multiply(a: Any, b: Any) -> Jet:
    (va, ga, ha), (vb, gb, hb) = _parts(a), _parts(b)
    va1, vb1 = np.asarray(va)[..., None], np.asarray(vb)[..., None]
    cross = ga[..., :, None] * gb[..., None, :]
    hessian = va1[..., None] * hb + vb1[..., None] * ha + cross + np.swapaxes(cross, -1, -2)
    return Jet(va * vb, va1 * gb + vb1 * ga, hessian)


def _power(a: Any, b: Any) -> Jet:
    if isinstance(b, Jet):
        return np.exp(b * np.log(a))
    v, k = np.asarray(a.value), np.asarray(b, dtype=float)
    first = np.where(k == 0, 0.0, k * v ** (k - 1))
    second = np.where((k == 0) | (k == 1), 0.0, k * (k - 1) * v ** np.where((k == 0) | (k == 1), 0.0, k - 2))
    return a._apply(v**k, first, second)


def _matmul(a: Any, b: Any) -> Jet:
    if isinstance(a, Jet) and isinstance(b, Jet):
        return (a * b).sum()
    if isinstance(b, Jet):
        a = np.asarray(a, dtype=float)
        if b.ndim != 1:
            raise _unknown("matmul with two axes")
        return Jet(a @ b.value, a @ b.gradient, np.tensordot(a, b.hessian, axes=(-1, 0)))
    return _matmul(np.swapaxes(np.asarray(b, dtype=float), 0, -1), a)


_BINARY: dict[str, Callable[[Any, Any], Jet]] = {
    "add": _add,
    "subtract": lambda a, b: _add(a, -b),
    "multiply": _multiply,
    "divide": lambda a, b: _multiply(a, np.reciprocal(b)) if isinstance(b, Jet) else _multiply(a, 1 / np.asarray(b)),
    "power": _power,
    "matmul": _matmul,
}
