r"""Primal-dual interior point method for concave utilities over a domain: fair welfare, linear and max-min objectives.

.. math:: \max_{x, t} \; q^\top (x, t) + \sum_{i \in F} w_i \frac{s_i^{1 - a}}{1 - a}, \quad h(x, t) = s > 0

The rows h are gains, floors, linear constraints and the ball. A fair row has the multiplier :math:`y = w s^{-a}`, every
other row :math:`y s = \mu \to 0`; so the Nash product needs no objective of its own and no exponential cone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from nashsolve.problems.domains import Domain, Duals

from .newton_system import newton_system

_LIMIT = 120
_BACK = 0.9995


@dataclass(frozen=True)
class Rows:
    """Rows ``u_i(x) - base_i - scale_i t`` for the players in `index`.

    kind "fair" carries weights and aversion; kind "floor" is a constraint.
    """

    index: Any
    base: Any
    scale: Any
    kind: str
    weights: Any = None
    aversion: float = 1.0


@dataclass
class Found:
    """Where the method ended: x, t, multipliers of all rows and of the domain, steps, and why it stopped early."""

    x: Any
    t: float
    y: list[Any]
    duals: Duals
    n_iter: int
    stopped: str


class Interior:
    """One run; utilities is a function x -> (u, J, H) with ``H(y) = sum y_i hess u_i``, or None for linear u."""

    def __init__(
        self,
        utilities: Any,
        domain: Domain,
        rows: list[Rows],
        objective: Any = None,
        with_t: bool = False,
        max_iter: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        self.utilities, self.domain, self.rows, self.with_t = utilities, domain, rows, with_t
        self.max_iter = _LIMIT if max_iter is None else max_iter
        self.time_limit = time_limit
        p = domain.size
        self.p, self.size = p, p + with_t
        self.q = np.zeros(self.size)
        if objective is not None:
            self.q[:p] = objective
        if with_t:
            self.q[p] = 1.0
        free = np.full(int(with_t), np.inf)
        self.lower = np.concatenate([domain.lower, -free])
        self.upper = np.concatenate([domain.upper, free])
        self.has_lower, self.has_upper = np.isfinite(self.lower), np.isfinite(self.upper)
        self.equal = np.hstack([domain.equal, np.zeros((len(domain.equal), int(with_t)))])
        self.sizes = [len(r.index) for r in rows] + [len(domain.matrix), int(domain.radius is not None)]
        count = sum(self.sizes)
        self.power, self.aversion = np.zeros(count), np.ones(count)
        self.fair = np.zeros(count, dtype=bool)
        begin = 0
        for r, k in zip(rows, self.sizes, strict=False):
            if r.kind == "fair":
                self.fair[begin : begin + k] = True
                self.power[begin : begin + k] = r.weights
                self.aversion[begin : begin + k] = r.aversion
            begin += k
        self.moves = ~(self.fair & (self.aversion == 0))
        self.bend = np.where(self.fair, self.aversion, 1.0)

    def _evaluate(self, x: Any) -> tuple[Any, Any, Any]:
        """h, its Jacobian, and y -> -sum y hess h as a diagonal (size,) or a matrix."""
        p = self.p
        u, j, bend = self.utilities(x[:p])
        t = x[p] if self.with_t else 0.0
        h, jac = [], []
        for r in self.rows:
            h.append(u[r.index] - r.base - r.scale * t)
            jac.append(np.hstack([j[r.index], -r.scale[:, None]]) if self.with_t else j[r.index])
        h.append(self.domain.limit - self.domain.matrix @ x[:p])
        jac.append(self._pad(-self.domain.matrix))
        radius = self.domain.radius
        if radius is not None:
            h.append(np.array([0.5 * (radius - x[:p] @ x[:p] / radius)]))
            jac.append(self._pad(-x[None, :p] / radius))
        return np.concatenate(h), np.vstack(jac), bend

    def _pad(self, rows: Any) -> Any:
        return np.hstack([rows, np.zeros((len(rows), 1))]) if self.with_t else rows

    def _curvature(self, bend: Any, y: Any) -> Any:
        """-sum y hess h: diagonal for linear utilities, else a matrix."""
        diagonal = np.zeros(self.size)
        if self.domain.radius is not None:
            diagonal[: self.p] = y[-1] / self.domain.radius
        if bend is None:
            return diagonal
        matrix = np.diag(diagonal)
        begin = 0
        for r, k in zip(self.rows, self.sizes, strict=False):
            total = np.zeros(int(r.index.max()) + 1 if k else 0)
            np.add.at(total, r.index, y[begin : begin + k])
            matrix[: self.p, : self.p] -= bend(total)
            begin += k
        return matrix

    def run(self, x: Any, t: float = 0.0) -> Found:
        """From a start strictly inside the bounds (and, for curved utilities, inside the linear constraints)."""
        begin = time.perf_counter()
        x = np.concatenate([x, [t]]) if self.with_t else np.array(x, dtype=float)
        state = self._start(x)
        best, found, stalled, stopped = np.inf, state, 0, "max_iter"
        step = 0
        for step in range(self.max_iter + 1):
            worth = self._worth(state)
            stalled = 0 if worth < 0.8 * best else stalled + 1
            if worth < best:
                best, found = worth, state
            if best < 1e-15 or (stalled >= 6 and best < 1e-9) or stalled >= 30:
                stopped = "" if best < 1e-7 else "numerical"
                break
            if step == self.max_iter:
                break
            if self.time_limit is not None and time.perf_counter() - begin > self.time_limit:
                stopped = "time"
                break
            following = self._advance(state)
            if following is None:
                stopped = "" if best < 1e-7 else "numerical"
                break
            state = following
        return self._found(found, step, stopped)

    def _found(self, state: _State, step: int, stopped: str) -> Found:
        parts, begin = [], 0
        for k in self.sizes:
            parts.append(state.y[begin : begin + k])
            begin += k
        p = self.p
        ball = float(parts[-1][0] / self.domain.radius) if self.domain.radius is not None else 0.0
        duals = Duals(parts[len(self.rows)], state.nu, state.below[:p], state.above[:p], ball)
        t = float(state.x[p]) if self.with_t else 0.0
        return Found(state.x[:p], t, parts[: len(self.rows)], duals, step, stopped)

    def _start(self, x: Any) -> _State:
        h, jac, bend = self._evaluate(x)
        low, high = self.domain.reach
        extent = np.ones(self.size)
        with np.errstate(invalid="ignore"):
            extent[: self.p] = np.where(np.isfinite(high - low), high - low, 1.0 + abs(x[: self.p]))
        if self.domain.radius is not None:
            extent[: self.p] = np.minimum(extent[: self.p], self.domain.radius / np.sqrt(self.p))
        size = np.maximum(abs(h), np.sqrt(jac**2 @ extent**2))
        size = np.where(size > 0, size, 1.0)
        s = np.maximum(h, 0.1 * size)
        self.extent = size
        count = max(len(h) + int(self.has_lower.sum() + self.has_upper.sum()), 1)
        mu = max(self.power[self.fair].mean() if self.fair.any() else 1.0, 1e-12)
        mu *= 0.3 if self.fair.any() else 1.0
        with np.errstate(all="ignore"):
            y = np.where(self.fair, self.power * s**-self.aversion, mu / s)
            if self.domain.radius is not None:  # what holds the pull of all players at the sphere
                y[-1] = max(y[-1], float(np.linalg.norm((self.q + jac[:-1].T @ y[:-1])[: self.p])))
            below = np.where(self.has_lower, mu / (x - self.lower), 0.0)
            above = np.where(self.has_upper, mu / (self.upper - x), 0.0)
        self.count = count
        return _State(x, s, y, np.zeros(len(self.equal)), below, above, h, jac, bend)

    def _residuals(self, v: _State) -> tuple[Any, Any, Any]:
        dual = self.q + v.jac.T @ v.y + v.below - v.above - self.equal.T @ v.nu
        return dual, v.h - v.s, self.domain.total - self.equal[:, : self.p] @ v.x[: self.p]

    def _gaps(self, v: _State) -> tuple[Any, Any]:
        """Distances to the bounds, one where there is none."""
        with np.errstate(invalid="ignore"):
            return np.where(self.has_lower, v.x - self.lower, 1.0), np.where(self.has_upper, self.upper - v.x, 1.0)

    def _worth(self, v: _State) -> float:
        """Relative complementarity and residuals: what is still missing."""
        dual, primal, equal = self._residuals(v)
        low, high = self._gaps(v)
        barrier = ~self.fair
        product = v.y * v.s
        missing = product[barrier].sum() + v.below @ low + v.above @ high
        fair = self.fair & (self.aversion > 0)
        off = abs(product[fair] - self.power[fair] * v.s[fair] ** (1 - self.aversion[fair])).sum()
        # a max-min value may be zero, so that what the rows are worth is the measure there
        scale = abs(product[self.fair]).sum() if self.fair.any() else max(abs(self.q @ v.x), v.y @ self.extent)
        scale = max(scale, 1e-300)
        reach = np.maximum(abs(v.x), np.minimum(low, high) * (self.has_lower | self.has_upper))
        total = missing + off + abs(dual) @ reach + v.y @ abs(primal)
        return float(total / scale + abs(equal).sum() / max(abs(self.domain.total).sum(), 1e-300) * bool(len(equal)))

    def _advance(self, v: _State) -> _State | None:
        dual, primal, equal = self._residuals(v)
        low, high = self._gaps(v)
        with np.errstate(all="ignore"):
            curve = self._curvature(v.bend, v.y)
            edge = v.below / low + v.above / high
            weight = self.bend * v.y / v.s
            players = self.moves & self.fair
            pull = (v.jac[players] ** 2 * weight[players, None]).sum(axis=0) if players.any() else None
            solve = newton_system(curve, edge, v.jac[self.moves], 1 / weight[self.moves], self.equal, pull)
        if solve is None:
            return None
        goal = self._goal(v)
        move = self._direction(v, solve, dual, primal, equal, low, high, goal, 0.0, 0.0, 0.0)
        t = min(1.0, self._length(v, move, low, high))
        barrier = ~self.fair
        pairs = (v.y * v.s)[barrier].sum() + v.below @ low + v.above @ high
        many = max(int(barrier.sum() + self.has_lower.sum() + self.has_upper.sum()), 1)
        after = ((v.y + t * move.y) * (v.s + t * move.s))[barrier].sum()
        after += (v.below + t * move.below) @ (low + t * move.x * self.has_lower)
        after += (v.above + t * move.above) @ (high - t * move.x * self.has_upper)
        left = min(max(after / pairs, 0.0), 1.0) if pairs > 0 else 0.0
        mu = pairs / many * max(left**3, 0.1 * (1 - t) ** 2)
        bent = primal
        if self.domain.radius is not None:
            bent = primal.copy()
            bent[-1] -= move.x[: self.p] @ move.x[: self.p] / (2 * self.domain.radius)
        first = self._direction(
            v,
            solve,
            dual,
            bent,
            equal,
            low,
            high,
            np.where(self.fair, goal, mu) - move.y * move.s,
            mu,
            -move.below * move.x,
            move.above * move.x,
        )
        best, longest = first, self._length(v, first, low, high)
        if longest < 0.5:  # jammed: aim at the centre, without a correction that rests on a full step
            for share in (0.5, 1.0):
                mu = share * pairs / many
                aim = np.where(self.fair, goal, mu)
                other = self._direction(v, solve, dual, primal, equal, low, high, aim, mu, 0.0, 0.0)
                length = self._length(v, other, low, high)
                if length > longest:
                    best, longest = other, length
        return self._move(v, best, low, high)

    def _goal(self, v: _State) -> Any:
        """What y s + dy s + a y ds should become on fair rows: Newton on ``y**(1/a) s = w**(1/a)``, bilinear as y s."""
        with np.errstate(all="ignore"):
            a = np.where(self.aversion > 0, self.aversion, 1.0)
            ratio = (self.power / v.y) ** (1 / a) / v.s
            product = v.y * v.s
            return np.where(self.fair & (self.aversion > 0), product + a * product * (ratio - 1), 0.0)

    def _direction(
        self,
        v: _State,
        solve: Any,
        dual: Any,
        primal: Any,
        equal: Any,
        low: Any,
        high: Any,
        goal: Any,
        mu: float,
        more_below: Any,
        more_above: Any,
    ) -> _State:
        """Newton direction towards y s = goal on the rows and mu (plus corrections) on the bounds."""
        move = self.moves
        below = np.where(self.has_lower, (mu + more_below) / low - v.below, 0.0)
        above = np.where(self.has_upper, (mu + more_above) / high - v.above, 0.0)
        slack = (goal[move] / v.y[move] - v.s[move]) / self.bend[move]
        dx, eta = solve(dual + below - above, np.concatenate([slack - primal[move], equal]))
        dy, ds = np.zeros_like(v.y), v.jac @ dx + primal
        dy[move], dnu = eta[: len(slack)], -eta[len(slack) :]
        ds[move] = slack - v.s[move] / (self.bend[move] * v.y[move]) * dy[move]
        return _State(dx, ds, dy, dnu, below - v.below / low * dx, above + v.above / high * dx)

    def _length(self, v: _State, d: _State, low: Any, high: Any) -> float:
        rows = self.moves
        longest = np.inf
        for value, change in (
            (v.s[rows], d.s[rows]),
            (v.y[rows], d.y[rows]),
            (low, d.x * self.has_lower),
            (high, -d.x * self.has_upper),
            (v.below, d.below),
            (v.above, d.above),
        ):
            down = change < 0
            if down.any():
                longest = min(longest, float((value[down] / -change[down]).min()))
        return longest

    def _move(self, v: _State, d: _State, low: Any, high: Any) -> _State | None:
        t = self._length(v, d, low, high)
        t = min(1.0, (_BACK if t > 0.9 else 0.9) * t)
        if not np.isfinite(t) or t < 1e-12 or not np.isfinite(d.x).all():
            return None
        linear = v.bend is None
        before = np.inf if linear else self._merit(v)
        for _ in range(30):
            x = v.x + t * d.x
            with np.errstate(all="ignore"):
                h, jac, bend = self._evaluate(x)
            if linear or (np.isfinite(h).all() and np.isfinite(jac).all()):
                following = _State(
                    x, v.s + t * d.s, v.y + t * d.y, v.nu + t * d.nu, v.below + t * d.below, v.above + t * d.above
                )
                following.h, following.jac, following.bend = h, jac, bend
                if linear or self._merit(following) <= 2 * before + 1e-9:
                    return following
            t *= 0.5
        return None

    def _merit(self, v: _State) -> float:
        dual, primal, equal = self._residuals(v)
        return float(
            abs(dual).max() / (1 + abs(v.y).max()) + abs(primal) @ abs(v.y) / abs(v.y * v.s).sum() + abs(equal).sum()
        )


@dataclass
class _State:
    """An iterate, or a direction."""

    x: Any
    s: Any
    y: Any
    nu: Any
    below: Any
    above: Any
    h: Any = None
    jac: Any = None
    bend: Any = None
