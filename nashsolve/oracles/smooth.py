"""Linear or smooth concave utilities over a domain: the interior point method, and linear programs where exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import linprog

from nashsolve.core.errors import InvalidProblem
from nashsolve.problems.domains import Domain, Duals
from nashsolve.problems.jets import Jet

from .base import Proposal
from .gram_interior import solve_in_ball
from .interior import Interior, Rows
from .programs import linear_program

_FEW = 400
"""Players and constraints up to which a ball problem is solved in their number of unknowns."""


class SmoothOracle:
    """Utilities ``matrix @ x + offset`` or functions of x over a Domain; names are for messages."""

    rtol = 1e-6
    solver = "interior"

    def __init__(
        self, domain: Domain, n: int, matrix: Any = None, offset: Any = None, functions: Any = None, names: Any = None
    ) -> None:
        self.domain, self.n, self.matrix, self.functions = domain, n, matrix, functions
        self.offset = np.zeros(n) if offset is None else offset
        self._names = names
        self.options: dict[str, Any] = {}
        self._checked = False

    @property
    def names(self) -> Any:
        """The players, for messages."""
        return self._names or [f"player {i}" for i in range(self.n)]

    @property
    def polyhedral(self) -> bool:
        """Linear utilities and no ball."""
        return self.matrix is not None and self.domain.radius is None

    @property
    def resolution(self) -> float:
        """Linear programs end in a corner; interior points come close to one."""
        return 1e-13 if self.polyhedral else 1e-9

    def spread(self) -> Any:
        """Length of each gradient in the middle, times the extent of the set."""
        _, jac, _ = self._utilities(self._centre())
        low, high = self.domain.reach
        with np.errstate(invalid="ignore"):
            extent = np.where(np.isfinite(high - low), high - low, 0.0)
        if self.domain.radius is not None:
            extent = np.minimum(extent, self.domain.radius)
        return np.sqrt(jac**2 @ extent**2)

    # the three questions

    def fair(self, weights: Any, disagreement: Any, aversion: float) -> Proposal:
        """See Oracle."""
        self._check()
        if aversion == 1 and self._only_ball_and_rows():
            quick = self._in_gram(weights, disagreement)
            if quick is not None:
                return quick
        every = np.arange(self.n)
        rows = [Rows(every, disagreement, np.zeros(self.n), "fair", weights, aversion)]
        found = self._interior(rows).run(self._centre())
        return self._proposal(found, found.y[0])

    def linear(self, direction: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        self._check()
        held = np.flatnonzero(np.isfinite(floor)) if floor is not None else np.zeros(0, dtype=int)
        low = floor[held] if floor is not None else np.zeros(0)
        if self.polyhedral:
            return self._program(direction @ self.matrix, held, low, direction)
        if len(held):
            plain = self.linear(direction)
            if (plain.utilities >= floor).all() and not plain.stopped:
                return plain
        wanted = np.flatnonzero(direction > 0)
        rows = [Rows(wanted, np.zeros(len(wanted)), np.zeros(len(wanted)), "fair", direction[wanted], 0.0)]
        if len(held):
            rows.append(Rows(held, low, np.zeros(len(held)), "floor"))
        found = self._interior(rows).run(self._centre())
        y = np.array(direction, dtype=float)
        if len(held):
            y[held] += found.y[1]
        return self._proposal(found, y)

    def maxmin(self, base: Any, scale: Any, floor: Any = None) -> Proposal:
        """See Oracle."""
        self._check()
        free = np.flatnonzero(scale > 0)
        held = np.flatnonzero(np.isfinite(floor)) if floor is not None else np.zeros(0, dtype=int)
        low = floor[held] if floor is not None else np.zeros(0)
        if self.polyhedral:
            return self._program_maxmin(free, base, scale, held, low)
        rows = [Rows(free, base[free], scale[free], "floor")]
        if len(held):
            rows.append(Rows(held, low, np.zeros(len(held)), "floor"))
        x = self._centre()
        start = float(((self._utilities(x)[0] - base)[free] / scale[free]).min())
        found = self._interior(rows, with_t=True).run(x, start - 0.1 * max(abs(start), 1.0))
        y = np.zeros(self.n)
        y[free] = found.y[0]
        if len(held):
            y[held] += found.y[1]
        return self._proposal(found, y)

    def support(self, direction: Any, proposal: Proposal) -> float:
        """Weak duality with the proposal's multipliers; curved utilities are bounded by their tangents there."""
        if self.matrix is not None:
            q, fixed = direction @ self.matrix, float(direction @ self.offset)
        else:
            u, jac, _ = self._utilities(proposal.point, set(np.flatnonzero(direction).tolist()))
            q = direction @ jac
            fixed = float(direction @ (u - jac @ proposal.point))
        duals = proposal.evidence.get("duals") or self.domain.no_duals()
        bound = self.domain.highest(q, duals)
        if not np.isfinite(bound) and self.domain.radius is None:
            bound = self._highest_by_program(q)
        return bound + fixed

    def feasible(self, proposal: Proposal) -> bool:
        """Bounds, rows, equations and ball, each relative to the numbers that enter it."""
        return self.domain.holds(proposal.point)

    # how they are answered

    def _only_ball_and_rows(self) -> bool:
        """Linear utilities, a ball, few inequalities, nothing else: then the dimension of x need not matter."""
        d = self.domain
        if self.matrix is None or d.radius is None or len(d.equal) or self.options.get("time_limit") is not None:
            return False
        return self.n + len(d.matrix) <= _FEW and d.unbounded

    def _in_gram(self, weights: Any, disagreement: Any) -> Proposal | None:
        """The method of gram_interior; None where the general one must decide."""
        d = self.domain
        radius = float(d.radius or 1.0)
        rows = np.concatenate([self.matrix, -d.matrix])
        b = np.concatenate([disagreement - self.offset, -d.limit])
        limit = self.options.get("max_iter")
        eta, steps, stopped = solve_in_ball(radius**2 * (rows @ rows.T), b, weights, 60 if limit is None else limit)
        if stopped == "numerical":
            return None
        pull = eta @ rows
        length = math.sqrt(pull @ pull)
        x = pull * (radius / length)
        nothing = np.zeros(d.size)
        duals = Duals(eta[self.n :], nothing[:0], nothing, nothing, length / radius)
        u = self.matrix @ x + self.offset
        return Proposal(u, x, eta[: self.n], steps, "gram_interior", stopped, {"duals": duals})

    def _interior(self, rows: list[Rows], with_t: bool = False) -> Interior:
        needed = set(np.concatenate([r.index for r in rows]).tolist())
        return Interior(lambda x: self._utilities(x, needed), self.domain, rows, None, with_t, **self.options)

    def _utilities(self, x: Any, needed: Any = None) -> tuple[Any, Any, Any]:
        """Values, Jacobian and curvature; zeros for players who are not needed, whose functions may have no slope."""
        if self.matrix is not None:
            return self.matrix @ x + self.offset, self.matrix, None
        p = len(x)
        zero = Jet(0.0, np.zeros(p), np.zeros((p, p)))
        jets = [self._jet(i, x) if needed is None or i in needed else zero for i in range(self.n)]
        u = np.array([j.value for j in jets])
        jac = np.array([j.gradient for j in jets])
        hessians = [j.hessian for j in jets]
        return u, jac, lambda y: sum(k * h for k, h in zip(y, hessians, strict=False))

    def _jet(self, i: int, x: Any) -> Jet:
        value = self.functions[i](Jet.variable(x))
        p = len(x)
        if not isinstance(value, Jet):
            return Jet(float(value), np.zeros(p), np.zeros((p, p)))
        if value.ndim:
            raise InvalidProblem(f"the utility of {self.names[i]} has shape {value.shape}; a number is needed")
        hessian = np.broadcast_to(value.hessian, (p, p))
        if np.isfinite(hessian).all():
            top = float(np.linalg.eigvalsh(hessian)[-1])
            if top > 1e-9 * max(float(abs(hessian).max()), 1e-12):
                where = np.array2string(x[:6], precision=4)
                raise InvalidProblem(
                    f"the utility of {self.names[i]} is not concave: it bends upwards ({top:.3g}) at x = {where}"
                )
        return Jet(float(value.value), np.broadcast_to(value.gradient, (p,)), hessian)

    def _proposal(self, found: Any, y: Any) -> Proposal:
        x = found.x
        radius = self.domain.radius
        if radius is not None and (length := float(np.linalg.norm(x))) > radius:
            x = x * (radius / length)
        with np.errstate(all="ignore"):
            u = self._utilities(x)[0]
        return Proposal(u, x, y, found.n_iter, self.solver, found.stopped, {"duals": found.duals})

    def _centre(self) -> Any:
        """A point inside the bounds, and strictly inside all constraints where that is cheap or needed."""
        domain = self.domain
        low, high = domain.reach
        with np.errstate(invalid="ignore"):
            middle = np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, 0.0)
            middle = np.where(np.isfinite(low) & ~np.isfinite(high), low + 1, middle)
            middle = np.where(~np.isfinite(low) & np.isfinite(high), high - 1, middle)
        if domain.radius is not None:
            off = np.minimum(1e-3 * domain.radius, 0.25 * (domain.upper - domain.lower))
            middle = np.clip(0.0, domain.lower + off, domain.upper - off)
        elif len(domain.matrix) + len(domain.equal):
            corner = np.where(np.isfinite(low), low, middle)
            middle = corner + (middle - corner) * min(1.0, 2.0 / domain.size)
        if self.matrix is not None or bool((domain.matrix @ middle < domain.limit).all() and not len(domain.equal)):
            return middle
        return self._deepest()

    def _deepest(self) -> Any:
        """The point with the largest least slack, by a linear program."""
        d = self.domain
        p = d.size
        bounds = np.column_stack([d.lower, d.upper])
        rows = [np.hstack([d.matrix, np.linalg.norm(d.matrix, axis=1)[:, None]])]
        right = [d.limit]
        for sign, side in ((-1.0, d.lower), (1.0, d.upper)):
            has = np.isfinite(side)
            rows.append(np.hstack([sign * np.eye(p)[has], np.ones((int(has.sum()), 1))]))
            right.append(sign * side[has])
        if d.radius is not None:
            edge = d.radius / np.sqrt(p)
            for sign in (-1.0, 1.0):
                rows.append(np.hstack([sign * np.eye(p), np.ones((p, 1))]))
                right.append(np.full(p, edge))
        equal = np.hstack([d.equal, np.zeros((len(d.equal), 1))])
        cost = np.append(np.zeros(p), -1.0)
        found = linprog(
            cost,
            np.vstack(rows),
            np.concatenate(right),
            equal if len(equal) else None,
            d.total if len(equal) else None,
            bounds=[*map(tuple, bounds), (None, 1e6)],
            method="highs",
        )
        if found.status != 0 or found.x[-1] <= 0:
            raise InvalidProblem(
                "the constraints leave no feasible point with room around it: the set is empty or flat"
            )
        return found.x[:p]

    # linear programs

    def _program(self, q: Any, held: Any, low: Any, direction: Any) -> Proposal:
        found = linear_program(self.domain, self.matrix, self.offset, -q, held, low, np.zeros(len(held)))
        y = np.array(direction, dtype=float)
        y[held] += found["floors"]
        return self._from_program(found, y)

    def _program_maxmin(self, free: Any, base: Any, scale: Any, held: Any, low: Any) -> Proposal:
        cost = np.append(np.zeros(self.domain.size), -1.0)
        both = np.concatenate([free, held]).astype(int)
        slope = np.concatenate([scale[free], np.zeros(len(held))])
        found = linear_program(
            self.domain, self.matrix, self.offset, cost, both, np.concatenate([base[free], low]), slope
        )
        y = np.zeros(self.n)
        np.add.at(y, both, found["floors"])
        return self._from_program(found, y)

    def _from_program(self, found: dict[str, Any], y: Any) -> Proposal:
        if found["x"] is None:
            nan = np.full(self.n, np.nan)
            return Proposal(nan, np.full(self.domain.size, np.nan), y, 0, "highs", found["status"], {})
        u = self.matrix @ found["x"] + self.offset
        return Proposal(u, found["x"], y, found["n_iter"], "highs", "", {"duals": found["duals"]})

    def _highest_by_program(self, q: Any) -> float:
        plain = SmoothOracle(self.domain, 1, matrix=q[None])
        plain._checked = True
        found = plain._program(q, np.zeros(0, dtype=int), np.zeros(0), np.ones(1))
        return np.inf if found.stopped else float(found.utilities[0])

    # what must hold before anything is asked

    def _check(self) -> None:
        """The set is not empty and no linear utility is unbounded on it."""
        if self._checked:
            return
        self._checked = True
        d = self.domain
        if not len(d.matrix) and not len(d.equal):
            if d.radius is not None and np.linalg.norm(np.clip(0.0, d.lower, d.upper)) > d.radius:
                raise InvalidProblem("the constraints leave no feasible point: the bounds lie outside the ball")
        elif d.radius is None:
            zero = SmoothOracle(d, 1, matrix=np.zeros((1, d.size)))
            zero._checked = True
            if zero._program(np.zeros(d.size), np.zeros(0, dtype=int), np.zeros(0), np.ones(1)).stopped == "infeasible":
                raise InvalidProblem("the constraints leave no feasible point: the set is empty")
        if self.matrix is not None and d.radius is None and not np.isfinite(d.reach).all():
            for i in range(self.n):
                if not np.isfinite(self._highest_by_program(self.matrix[i])):
                    raise InvalidProblem(
                        f"the utility of {self.names[i]} has no upper bound on the constraints; add what limits it"
                    )

    def empty_in_ball(self) -> bool:
        """Whether linear constraints and ball exclude each other, proved by multipliers."""
        d = self.domain
        if d.radius is None or not len(d.matrix) + len(d.equal):
            return False
        rows = np.vstack([d.matrix, d.equal, -d.equal])
        right = np.concatenate([d.limit, d.total, -d.total])
        inner = SmoothOracle(Domain(d.size, d.lower, d.upper, radius=d.radius), len(rows), matrix=-rows, offset=right)
        found = inner.maxmin(np.zeros(len(rows)), np.ones(len(rows)))
        return inner.support(found.multipliers, found) < -1e-12 * float(found.multipliers @ (1 + abs(right)))
