"""Where x may lie: bounds, linear inequalities and equalities, a ball, and their intersections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem, InvalidType

_ROWS = ("matrix", "limit", "equal", "total")
_ROOM = 1e-8
"""Violation of a constraint, relative to what enters it, that counts as rounding."""


@dataclass(frozen=True, eq=False)
class Domain:
    r"""The convex set ``lower <= x <= upper, matrix @ x <= limit, equal @ x = total, |x| <= radius``.

    Made by `simplex`, `box`, `ball` and `polytope`; ``a & b`` is the intersection.

    Parameters
    ----------
    size : number p of coordinates
    lower, upper : (p,), infinite where there is no bound
    matrix, limit : (m, p) and (m,)
    equal, total : (k, p) and (k,)
    radius : of a ball around the origin, or None
    """

    size: int
    lower: Any = None
    upper: Any = None
    matrix: Any = None
    limit: Any = None
    equal: Any = None
    total: Any = None
    radius: float | None = None

    def __post_init__(self) -> None:
        p = self.size
        if isinstance(p, bool) or not isinstance(p, int | np.integer) or p < 1:
            raise InvalidType(f"size is {p!r}; a whole number of coordinates, at least 1, is needed")
        free = self.lower is None and self.upper is None
        fresh = {
            "lower": _unlimited(p, -np.inf) if self.lower is None else _numbers(self.lower, "lower", p),
            "upper": _unlimited(p, np.inf) if self.upper is None else _numbers(self.upper, "upper", p),
        }
        fresh["matrix"], fresh["limit"] = _system(self.matrix, self.limit, "matrix", "limit", p)
        fresh["equal"], fresh["total"] = _system(self.equal, self.total, "equal", "total", p)
        if self.radius is not None and not (math.isfinite(self.radius) and self.radius > 0):
            raise InvalidProblem(f"radius is {self.radius}; it must be positive and finite")
        self._set(fresh, free)

    def _set(self, fresh: dict[str, Any], free: bool) -> None:
        """The arrays, read-only; `free` says that no coordinate has a bound of its own."""
        lower, upper = fresh["lower"], fresh["upper"]
        if not free and (lower > upper).any():
            j = int((lower > upper).argmax())
            raise InvalidProblem(f"lower[{j}] is {lower[j]:g} and upper[{j}] is {upper[j]:g}: the set is empty")
        for value in fresh.values():
            value.setflags(write=False)
        self.__dict__.update(fresh)
        if free:
            self.__dict__["unbounded"] = True

    def __and__(self, other: Domain) -> Domain:
        if not isinstance(other, Domain):
            return NotImplemented
        if other.size != self.size:
            raise InvalidProblem(f"domains of {self.size} and {other.size} coordinates do not intersect")
        radii = [r for r in (self.radius, other.radius) if r is not None]
        both = object.__new__(Domain)  # of parts that are checked already
        both.__dict__.update(size=self.size, radius=min(radii) if radii else None)
        parts = {name: _stacked(getattr(self, name), getattr(other, name)) for name in _ROWS}
        free = self.unbounded and other.unbounded
        low = self.lower if free else np.maximum(self.lower, other.lower)
        high = self.upper if free else np.minimum(self.upper, other.upper)
        both._set({"lower": low, "upper": high, **parts}, free)
        return both

    @cached_property
    def unbounded(self) -> bool:
        """No coordinate has a bound of its own."""
        return not (np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @cached_property
    def reach(self) -> Any:
        """Bounds (2, p) on every coordinate that the constraints imply, by a few rounds of interval arithmetic."""
        low, high = self.lower.copy(), self.upper.copy()
        if self.radius is not None:
            low, high = np.maximum(low, -self.radius), np.minimum(high, self.radius)
        rows = np.vstack([self.matrix, self.equal, -self.equal])
        right = np.concatenate([self.limit, self.total, -self.total])
        if not len(rows) or (np.isfinite(low).all() and np.isfinite(high).all()):
            return np.stack([low, high])
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(3):
                least = np.where(rows > 0, rows * low, np.where(rows < 0, rows * high, 0.0))
                for i, row in enumerate(rows):
                    missing = np.isinf(least[i])
                    others = least[i][~missing].sum() - np.where(missing, 0.0, least[i])
                    known = missing.sum() - missing == 0
                    bound = (right[i] - others) / row
                    high = np.where(known & (row > 0), np.minimum(high, bound), high)
                    low = np.where(known & (row < 0), np.maximum(low, bound), low)
        return np.stack([low, high])

    def highest(self, direction: Any, duals: Duals) -> float:
        r"""An upper bound of ``direction @ x`` over the set, for any multipliers, by weak duality.

        .. math::
            b^\top y + e^\top \nu + u^\top z_u - l^\top z_l + \max_x (q - C^\top y - E^\top \nu - z_u + z_l)^\top x

        with the last maximum, of what the multipliers leave over, over the ball and the implied bounds.
        """
        y = np.maximum(duals.matrix, 0.0)
        left = direction - y @ self.matrix
        fixed = float(self.limit @ y)
        if len(self.equal):
            left = left - duals.equal @ self.equal
            fixed += float(self.total @ duals.equal)
        in_ball = np.inf if self.radius is None else self.radius * math.sqrt(left @ left)
        if self.unbounded and self.radius is not None:  # and what is said about bounds that are none may be left out
            return fixed + in_ball
        below, above = np.maximum(duals.lower, 0.0), np.maximum(duals.upper, 0.0)
        left = left - above + below
        fixed += _product(above, self.upper) - _product(below, self.lower)
        if self.radius is not None:
            in_ball = self.radius * math.sqrt(left @ left)
        low, high = self.reach
        in_box = _product(np.maximum(left, 0.0), high) - _product(np.maximum(-left, 0.0), low)
        return fixed + min(in_box, in_ball)

    def holds(self, x: Any) -> bool:
        """Whether x obeys every constraint up to 1e-8 of the numbers that enter it."""
        square = float(x @ x)
        if not (math.isfinite(square) or np.isfinite(x).all()):
            return False
        sizes = abs(x)
        if self.radius is not None and math.sqrt(square) > self.radius * (1 + 1e-12):
            return False
        if not self.unbounded:
            room = _ROOM * (sizes + min(float(sizes.max(initial=0.0)), 1.0))
            if not ((x >= self.lower - room).all() and (x <= self.upper + room).all()):
                return False
        for rows, right, equal in ((self.matrix, self.limit, False), (self.equal, self.total, True)):
            if len(rows):
                over = rows @ x - right
                if not equal and float(over.max()) <= 0:
                    continue
                if not ((abs(over) if equal else over) <= _ROOM * (abs(rows) @ sizes + abs(right))).all():
                    return False
        return True

    def no_duals(self) -> Duals:
        """Multipliers of zero."""
        p = self.size
        return Duals(np.zeros(len(self.matrix)), np.zeros(len(self.equal)), np.zeros(p), np.zeros(p), 0.0)


@dataclass(frozen=True, eq=False)
class Duals:
    """Multipliers of a domain's constraints: matrix (m,), equal (k,), lower and upper (p,), ball."""

    matrix: Any
    equal: Any
    lower: Any
    upper: Any
    ball: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return {"matrix": self.matrix, "equal": self.equal, "lower": self.lower, "upper": self.upper, "ball": self.ball}


def _stacked(one: Any, other: Any) -> Any:
    """Rows of both; no copy where one of them has none."""
    if not len(one) or not len(other):
        return one if len(one) else other
    return np.concatenate([one, other])


def _product(x: Any, bound: Any) -> float:
    """x @ bound for x >= 0, where zero times infinity is zero."""
    return float(np.where(x > 0, x * np.where(x > 0, bound, 0.0), 0.0).sum())


@lru_cache(maxsize=256)
def _unlimited(p: int, value: float) -> Any:
    """Bounds that are none, shared by all sets of p coordinates; read-only."""
    found = np.full(p, value)
    found.setflags(write=False)
    return found


@lru_cache(maxsize=256)
def _no_rows(p: int) -> tuple[Any, Any]:
    """A system without rows, shared by all sets of p coordinates; read-only."""
    rows, right = np.zeros((0, p)), np.zeros(0)
    rows.setflags(write=False)
    right.setflags(write=False)
    return rows, right


def _numbers(value: Any, name: str, p: int) -> Any:
    found, _ = arrays.as_float64(value, name, np)
    try:
        found = np.array(np.broadcast_to(found, (p,)))
    except ValueError:
        raise InvalidProblem(f"{name} has shape {tuple(found.shape)}; ({p},) is needed") from None
    if np.isnan(found).any():
        raise InvalidProblem(f"{name}[{int(np.flatnonzero(np.isnan(found))[0])}] is nan; a number is needed")
    return found


def _system(rows: Any, right: Any, name: str, right_name: str, p: int) -> tuple[Any, Any]:
    if (rows is None) != (right is None):
        raise InvalidProblem(f"give both {name} and {right_name}, or neither")
    if rows is None:
        return _no_rows(p)
    found, _ = arrays.as_float64(rows, name, np)
    found = np.atleast_2d(found)
    if found.ndim != 2 or found.shape[1] != p:
        raise InvalidProblem(f"{name} has shape {tuple(found.shape)}; rows of {p} coordinates are needed")
    side, _ = arrays.as_float64(right, right_name, np)
    if side.ndim > 1 or (side.ndim == 1 and side.shape != (len(found),)):
        raise InvalidProblem(f"{right_name} has shape {tuple(side.shape)}; one number for each of {len(found)} rows")
    side = np.array(side) if side.ndim else np.full(len(found), float(side))
    for label, value in ((name, found), (right_name, side)):
        if not (math.isfinite(value.sum()) or np.isfinite(value).all()):
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise InvalidProblem(f"{label}[{', '.join(map(str, where))}] is {value[where]}; it must be finite")
    return np.array(found), side


def simplex(size: int, total: float = 1.0, free_disposal: bool = True) -> Domain:
    """Divide `total` among `size` shares: x >= 0 with sum at most `total`, or exactly it without free disposal."""
    if not (np.isfinite(total) and total > 0):
        raise InvalidProblem(f"total is {total}; it must be positive and finite")
    ones = np.ones((1, size))
    if free_disposal:
        return Domain(size, lower=np.zeros(size), matrix=ones, limit=[total])
    return Domain(size, lower=np.zeros(size), equal=ones, total=[total])


def box(lower: Any, upper: Any) -> Domain:
    """Bounds on every coordinate; numbers or arrays of one length, infinite where there is no bound."""
    low, high = np.broadcast_arrays(np.asarray(lower, dtype=float), np.asarray(upper, dtype=float))
    if low.ndim > 1:
        raise InvalidProblem(f"lower and upper have shape {low.shape}; one axis is needed")
    return Domain(max(low.size, 1), lower=np.atleast_1d(low), upper=np.atleast_1d(high))


def ball(size: int, radius: float = 1.0) -> Domain:
    """The Euclidean ball around the origin."""
    return Domain(size, radius=radius)


def polytope(matrix: Any, limit: Any, *, equal: Any = None, total: Any = None, nonnegative: bool = False) -> Domain:
    """The points with ``matrix @ x <= limit`` and ``equal @ x = total``, and x >= 0 if `nonnegative`."""
    rows = np.atleast_2d(np.asarray(matrix, dtype=float))
    size = rows.shape[1]
    return Domain(
        size, matrix=rows, limit=limit, equal=equal, total=total, lower=np.zeros(size) if nonnegative else None
    )
