"""The answer to 50 digits, from the float64 rows themselves: what "true error" means in these benchmarks."""

from __future__ import annotations

import mpmath
import numpy as np
from mpmath import mp
from numpy.typing import NDArray

MAX_PLAYERS = 16
DIGITS = 50
MAX_ITERATIONS = 200
CERTIFIED = mpmath.mpf(10) ** -30
NOTHING = mpmath.mpf(10) ** -20


class NoTruth(ArithmeticError):
    """Newton did not converge: the problem has no agreement, or none that 50 digits can find."""


def exact_gram(vectors: NDArray[np.float64]) -> mpmath.matrix:
    """``vectors @ vectors.T`` to the working precision, in which a product of two float64 is exact."""
    rows = [[mp.mpf(float(x)) for x in row] for row in vectors]
    n = len(rows)
    gram = mp.matrix(n, n)
    for i in range(n):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = mp.fdot(rows[i], rows[j])
    return gram


def true_alpha(vectors: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    r"""The positive solution of ``alpha_i (A alpha)_i = w_i``, ``A = vectors @ vectors.T``, as float64.

    Primal-dual Newton with a second-order correction in ``DIGITS`` digits on the unit-diagonal Gram, from the
    best point of the ray ``w``. Stops when the Newton decrement proves every entry to a relative error below
    1e-30.

    Parameters
    ----------
    vectors : array of float64, shape (n, p), n <= 16
        One player a row, not zero.
    weights : array of float64, shape (n,), positive, optional
        Bargaining power; ones if not given.

    Raises
    ------
    NoTruth
        If that proof is not reached: there is no agreement.
    """
    n = vectors.shape[0]
    if n > MAX_PLAYERS:
        raise ValueError(f"{n} players: 50 digits take too long beyond {MAX_PLAYERS}")
    w = [mp.mpf(float(x)) for x in (np.ones(n) if weights is None else weights)]
    with mp.workdps(DIGITS):
        gram = exact_gram(vectors)
        norms = [mp.sqrt(gram[i, i]) for i in range(n)]
        unit = mp.matrix(n, n)
        for i in range(n):
            for j in range(n):
                unit[i, j] = gram[i, j] / (norms[i] * norms[j])
        alpha = _newton(unit, w)
        return np.array([float(a / s) for a, s in zip(alpha, norms, strict=True)])


def _solve(matrix: mpmath.matrix, right: mpmath.matrix) -> mpmath.matrix:
    try:
        return mp.cholesky_solve(matrix, right)
    except ValueError as error:  # positive definite in exact arithmetic wherever an agreement exists
        raise NoTruth("50 digits are not enough: zero is in the convex hull of the rows, or all but") from error


def _newton(gram: mpmath.matrix, w: list[mpmath.mpf]) -> list[mpmath.mpf]:
    n = len(w)
    players = range(n)
    ray = mp.fsum(w[i] * gram[i, j] * w[j] for i in players for j in players)
    if ray <= 0:
        raise NoTruth("the weighted sum of the rows is zero")
    a = [wi * mp.sqrt(mp.fsum(w) / ray) for wi in w]
    u = [wi / ai for wi, ai in zip(w, a, strict=True)]
    for _ in range(MAX_ITERATIONS):
        b = mp.matrix(n, n)
        for i in players:
            for j in players:
                b[i, j] = a[i] * gram[i, j] * a[j]
        residual = mp.matrix([w[i] - mp.fsum(b[i, :]) for i in players])
        primal = b + mp.diag(w)
        decrement = mp.sqrt(abs((residual.T * _solve(primal, residual))[0]) / min(w))
        if decrement < CERTIFIED:
            return a
        if mp.sqrt(mp.fsum(b)) < NOTHING * mp.fsum(a):
            raise NoTruth("zero is in the convex hull of the rows")
        matrix = b + mp.diag([a[i] * u[i] for i in players])
        slack = [w[i] / (a[i] * u[i]) - 1 for i in players]
        d = _solve(matrix, residual)
        e = [slack[i] - d[i] for i in players]
        step = _step(d, e)
        corrected = mp.matrix([residual[i] - a[i] * u[i] * d[i] * e[i] for i in players])
        d2 = _solve(matrix, corrected)
        e2 = [slack[i] - d[i] * e[i] - d2[i] for i in players]
        if _step(d2, e2) >= step:
            d, e, step = d2, e2, _step(d2, e2)
        a = [ai * (1 + step * di) for ai, di in zip(a, d, strict=True)]
        u = [ui * (1 + step * ei) for ui, ei in zip(u, e, strict=True)]
    raise NoTruth(f"no answer certified to {mpmath.nstr(CERTIFIED, 1)} in {MAX_ITERATIONS} iterations")


def _step(d: mpmath.matrix, e: list[mpmath.mpf]) -> mpmath.mpf:
    """The longest step up to 1 that keeps a tenth of every entry."""
    worst = min(*d, *e)
    return mp.mpf(1) if worst > -0.9 else mp.mpf("-0.9") / worst


def relative_error(alpha: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Largest relative error of an entry."""
    return float(np.max(np.abs(alpha / truth - 1.0)))


def residual(alpha: NDArray[np.float64], vectors: NDArray[np.float64]) -> float:
    """``max_i |alpha_i (A alpha)_i - 1|`` through the rows, in the longest float of the machine."""
    rows = vectors.astype(np.longdouble)
    a = alpha.astype(np.longdouble)
    return float(np.max(np.abs(a * (rows @ (a @ rows)) - 1.0)))


def check() -> None:
    """Closed forms, planted weights, and both refusals."""
    rho = -0.9
    pair = np.array([[1.0, 0.0], [rho, np.sqrt(1.0 - rho**2)]])
    assert relative_error(true_alpha(pair), np.full(2, 1.0 / np.sqrt(1.0 + rho))) < 1e-14
    rows = np.abs(np.random.default_rng(0).standard_normal((8, 20)))
    planted = 0.5 + np.arange(8)
    assert relative_error(true_alpha(rows, planted * (rows @ (planted @ rows))), planted) < 1e-13
    for bad in (np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])):
        try:
            true_alpha(bad)
        except NoTruth:
            continue
        raise AssertionError("an answer to a problem that has none")


if __name__ == "__main__":
    import time

    from benchmarks.families import FEASIBLE, INFEASIBLE

    check()
    for players in (2, 8, MAX_PLAYERS):
        start = time.perf_counter()
        worst = 0.0
        for make in FEASIBLE.values():
            instance = make(players, 0)
            worst = max(worst, residual(true_alpha(instance), instance))
        for name, make in INFEASIBLE.items():
            try:
                true_alpha(make(players, 0))
            except NoTruth:
                continue
            raise AssertionError(f"{name}, n = {players}: an answer to a problem that has none")
        seconds = time.perf_counter() - start
        print(f"n = {players}: {len(FEASIBLE)} truths in {seconds:.1f} s, worst residual as float64 {worst:.1e}")
