r"""Nash bargaining in a ball with linear constraints, in the space of the players and constraints alone.

With rows k of players and of constraints (minus their normals), the best answer of the ball to multipliers
:math:`\eta` is :math:`x = r K^\top \eta / \rho`, :math:`\rho = \|K^\top \eta\|`; so the slacks are
:math:`F(\eta) = r K K^\top \eta / \rho - b`, and :math:`\eta F = w` for players, 0 for constraints, is a square
system in as many unknowns as there are rows, whatever the dimension of x. [boyd_vandenberghe2004]_
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from nashsolve import kernels

_DONE = 4e-16
_FLAT = 1e-7
"""Length of the combined rows, relative, below which the ball does not hold the agreement: not for this method."""
_STOPS = {0: "", 1: "max_iter", 2: "numerical", -1: "numerical"}
"""In words what the kernel says; without memory for it the general method decides."""


def solve_in_ball(gram: Any, b: Any, w: Any, max_iter: int) -> tuple[Any, int, str]:
    """Multipliers (N,) for the unit ball, steps, and why it stopped: "", "max_iter", or "numerical" for anything else.

    gram : (N, N) of the rows, players first; b : (N,) what the rows must exceed; w : (n,) weights of the players

    In the compiled kernel where there is one, else here, by the same steps.
    """
    native = kernels.load()
    if native is None:
        return solve_in_numpy(gram, b, w, max_iter)
    eta = np.empty(len(b))
    stop, steps = native.in_ball(gram, b, w, min(max_iter, kernels.MOST_ITERATIONS), eta)
    return eta, steps, _STOPS[stop]


def solve_in_numpy(gram: Any, b: Any, w: Any, max_iter: int) -> tuple[Any, int, str]:
    """The method of solve_in_ball without the kernel."""
    n, many = len(w), len(b)
    size = np.sqrt(gram.diagonal()) + abs(b)
    if not (size > 0).all():
        return np.ones(many), 0, "numerical"
    gram, b = gram / size[:, None] / size, b / size
    total = w.sum()
    target = np.zeros(many)
    target[:n] = w
    eta = np.full(many, 0.3 * w.mean())
    eta[:n] = w
    pull, length, slack = _answer(gram, b, eta)
    s = np.maximum(slack, 0.1)
    best, found, stalled = np.inf, eta, 0
    for step in range(max_iter + 1):
        worth = _excess(gram, b, w, eta, slack, total)
        stalled = 0 if worth < 0.8 * best else stalled + 1
        if worth < best:
            best, found = worth, eta
        if best <= _DONE or stalled >= (5 if np.isfinite(best) else 25):
            return found / size, step, "" if best < 1e-9 else "numerical"
        if length < _FLAT * eta.sum() or step == max_iter:
            break
        moved = _step(gram, b, n, target, eta, s, pull, length, slack)
        if moved is None:
            break
        eta, s = moved
        pull, length, slack = _answer(gram, b, eta)
    return found / size, step, "max_iter" if step == max_iter else ("" if best < 1e-9 else "numerical")


def _answer(gram: Any, b: Any, eta: Any) -> tuple[Any, float, Any]:
    pull = gram @ eta
    length = float(np.sqrt(max(eta @ pull, 0.0)))
    return pull, length, pull / max(length, 1e-300) - b


def _excess(gram: Any, b: Any, w: Any, eta: Any, slack: Any, total: float) -> float:
    """What the certificate will say, relative to the total weight; inf while somebody loses or a row is broken."""
    n = len(w)
    if slack[:n].min() <= 0 or (len(b) > n and slack[n:].min() < -1e-13):
        return np.inf
    theta = eta.copy()
    theta[:n] = w / slack[:n]
    return float(np.sqrt(theta @ gram @ theta) - b @ theta) / total - 1


def _step(
    gram: Any, b: Any, n: int, target: Any, eta: Any, s: Any, pull: Any, length: float, slack: Any
) -> tuple[Any, Any] | None:
    """Predictor and corrector with one factor; None where it breaks down."""
    system = (gram - np.multiply.outer(pull, pull) / length**2) / length
    ratio = s / eta
    system.flat[:: len(eta) + 1] += ratio
    factor, failed = dpotrf(system, lower=1, overwrite_a=1)
    if failed:
        return None

    def direction(aim: Any) -> tuple[Any, Any]:
        wanted = aim / eta
        move = dpotrs(factor, wanted - slack, lower=1)[0]
        return move, wanted - s - ratio * move

    move, ds = direction(target)
    rows, mu = len(eta) - n, 0.0
    aim = target - move * ds
    if rows:
        t = min(1.0, _longest(eta, move, s, ds))
        mu = float(eta[n:] @ s[n:]) / rows
        after = float((eta[n:] + t * move[n:]) @ (s[n:] + t * ds[n:])) / rows
        mu *= max(min(max(after / mu, 0.0), 1.0) ** 3, 0.1 * (1 - t) ** 2)
        aim[n:] += mu
    move, ds = direction(aim)
    longest = _longest(eta, move, s, ds)
    if longest < 0.5:  # jammed: aim at the centre, without the correction
        aim = target.copy()
        aim[n:] = 0.7 * float(eta[n:] @ s[n:]) / max(rows, 1)
        other, other_s = direction(aim)
        length = _longest(eta, other, s, other_s)
        if length > longest:
            move, ds, longest = other, other_s, length
    t = min(1.0, (0.9995 if longest > 0.9 else 0.9) * longest)
    if rows and not _descends(gram, b, _aim_of(target, n, mu), eta, move, t):
        # the plain direction descends on the convex function whose minimum the central path is, if only a little way
        aim = _aim_of(target, n, float(eta[n:] @ s[n:]) / rows)
        move, ds = direction(aim)
        longest = _longest(eta, move, s, ds)
        t = min(1.0, 0.9 * longest)
        while t > 1e-9 and not _descends(gram, b, aim, eta, move, t):
            t *= 0.5
    return (eta + t * move, s + t * ds) if t > 1e-12 else None


def _aim_of(target: Any, n: int, mu: float) -> Any:
    """The target of the central path: weights for players, mu for constraints."""
    aim = target.copy()
    aim[n:] = mu
    return aim


def _descends(gram: Any, b: Any, aim: Any, eta: Any, move: Any, t: float) -> bool:
    """Whether the step lowers the dual barrier ``|K' eta| - b' eta - sum aim log eta``."""

    def value(at: Any) -> float:
        return float(np.sqrt(max(at @ gram @ at, 0.0)) - b @ at - aim @ np.log(at))

    before = value(eta)
    return value(eta + t * move) <= before + 1e-12 * (1 + abs(before))


def _longest(eta: Any, move: Any, s: Any, ds: Any) -> float:
    """Largest step that keeps both positive."""
    lowest = min((move / eta).min(), (ds / s).min())
    return float(-1 / lowest) if lowest < 0 else np.inf
