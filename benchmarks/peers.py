"""One small adapter a peer: an instance in, alpha with ``alpha_i (A alpha)_i = 1`` out, or an exception.

A call does what a first call of a user does: the object is made, the problem is compiled and solved. Peers
that take a Gram get it ready made; peers that take rows form their own. Where a peer reports trouble beside
its answer (a solver status, ``success=False``), the adapter raises `Reported` with the answer inside, so that
only silent mistakes count as silent. Peers of the finance kind return weights of unit sum: they are rescaled
to ``alpha' A alpha = n``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Solve = Callable[[Array], Array]


class Reported(Exception):
    """The peer returned an answer and said, in its own way, not to trust it."""

    def __init__(self, message: str, alpha: Array | None = None) -> None:
        super().__init__(message)
        self.alpha = alpha


@dataclass(frozen=True)
class Peer:
    """How to call one solver: its name in the tables, its distribution, what it takes, and how to load it."""

    name: str
    package: str
    takes: Literal["gram", "vectors"]
    load: Callable[[], Solve]
    ours: bool = False


def nash_weights() -> Solve:
    """The lean path: Gram in, certified alpha out, an exception for all else."""
    from nashsolve import NashSolveError
    from nashsolve import nash_weights as lean

    def solve(array: Array) -> Array:
        try:
            return np.asarray(lean(array))
        except NashSolveError as refusal:
            raise Reported(str(refusal)) from None

    return solve


def natural_scale(weights: Array, gram: Array) -> Array:
    """``weights`` times the number that gives ``alpha' A alpha = n``."""
    return np.asarray(weights * np.sqrt(len(weights) / (weights @ gram @ weights)), dtype=np.float64)


def nashsolve(takes: Literal["gram", "vectors"], solver: str) -> Solve:
    """The public ``solve()``, problem and certificate included."""
    from nashsolve import BargainingProblem
    from nashsolve import solve as public_solve

    def solve(array: Array) -> Array:
        problem = array if takes == "gram" else BargainingProblem(vectors=array)
        solution = public_solve(problem, solver=solver, on_failure="return")
        if not solution.success:
            status: Any = solution.status
            raise Reported(str(getattr(status, "name", status)), solution.alpha)
        return solution.alpha

    return solve


def torchjd() -> Solve:
    """TorchJD's NashMTL: the published algorithm of Navon et al. 2022, 20 iterations, no norm limit."""
    import cvxpy  # noqa: F401  (TorchJD needs both and says so only when called)
    import ecos  # noqa: F401
    import torch
    from torchjd.aggregation import NashMTL

    def solve(vectors: Array) -> Array:
        aggregator = NashMTL(n_tasks=vectors.shape[0], max_norm=0.0, optim_niter=20)
        return np.asarray(aggregator.weighting(torch.from_numpy(vectors)).numpy(), dtype=np.float64)

    return solve


def skfolio() -> Solve:
    """skfolio's RiskBudgeting on a given covariance, long only, no upper bound."""
    from skfolio.optimization import RiskBudgeting
    from skfolio.prior import BasePrior, ReturnDistribution

    class Given(BasePrior):  # type: ignore[misc]
        """A prior that is told its covariance."""

        def __init__(self, covariance: Array | None = None) -> None:
            self.covariance = covariance

        def fit(self, X: Array, y: None = None, **_: object) -> Given:
            self.return_distribution_ = ReturnDistribution(
                mu=np.zeros(X.shape[1]), covariance=self.covariance, returns=X
            )
            return self

    def solve(gram: Array) -> Array:
        model = RiskBudgeting(prior_estimator=Given(gram), max_weights=None)
        model.fit(np.zeros((2, gram.shape[0])))
        return natural_scale(model.weights_, gram)

    return solve


def riskparity(**options: Any) -> Solve:
    """riskparity.py's compiled ``vanilla.design`` with uniform budgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quadprog is for another of its solvers
        from riskparityportfolio import vanilla

    def solve(gram: Array) -> Array:
        n = gram.shape[0]
        return natural_scale(vanilla.design(gram, np.full(n, 1.0 / n), **options).ravel(), gram)

    return solve


def cvxpy_clarabel() -> Solve:
    """``min alpha' A alpha / 2 - sum log alpha`` through CVXPY with Clarabel."""
    import clarabel  # noqa: F401
    import cvxpy as cp

    def solve(gram: Array) -> Array:
        alpha = cp.Variable(gram.shape[0])
        objective = cp.Minimize(0.5 * cp.quad_form(alpha, cp.psd_wrap(gram)) - cp.sum(cp.log(alpha)))
        problem = cp.Problem(objective)
        problem.solve(solver=cp.CLARABEL)
        if problem.status != cp.OPTIMAL:
            raise Reported(problem.status, alpha.value)
        return np.asarray(alpha.value, dtype=np.float64)

    return solve


def scipy_root() -> Solve:
    """``scipy.optimize.root`` (hybr) on ``A alpha = 1 / alpha`` from ``1 / sqrt(A_ii)``."""
    from scipy.optimize import root

    def solve(gram: Array) -> Array:
        found = root(
            lambda a: gram @ a - 1.0 / a,
            1.0 / np.sqrt(np.diag(gram)),
            jac=lambda a: gram + np.diag(1.0 / a**2),
            method="hybr",
        )
        if not found.success:
            raise Reported(found.message, found.x)
        return np.asarray(found.x, dtype=np.float64)

    return solve


def scipy_lbfgsb() -> Solve:
    """``scipy.optimize.minimize`` (L-BFGS-B) on the same convex function, from ``1 / sqrt(A_ii)``."""
    from scipy.optimize import minimize

    def solve(gram: Array) -> Array:
        def value_and_gradient(a: Array) -> tuple[float, Array]:
            image = gram @ a
            return 0.5 * float(a @ image) - float(np.log(a).sum()), image - 1.0 / a

        start = 1.0 / np.sqrt(np.diag(gram))
        bounds = [(1e-12 * s, None) for s in start]
        found = minimize(value_and_gradient, start, jac=True, bounds=bounds, method="L-BFGS-B")
        if not found.success:
            raise Reported(found.message, found.x)
        return np.asarray(found.x, dtype=np.float64)

    return solve


OURS_GRAM = "nashsolve newton, gram"
OURS_VECTORS = "nashsolve newton, vectors"
COMPILED = "nashsolve compiled, gram"
LEAN = "nashsolve nash_weights"
TORCHJD = "TorchJD NashMTL"

PEERS: tuple[Peer, ...] = (
    Peer(OURS_GRAM, "nashsolve", "gram", partial(nashsolve, "gram", "newton"), ours=True),
    Peer(OURS_VECTORS, "nashsolve", "vectors", partial(nashsolve, "vectors", "newton"), ours=True),
    Peer(COMPILED, "nashsolve", "gram", partial(nashsolve, "gram", "compiled"), ours=True),
    Peer(LEAN, "nashsolve", "gram", nash_weights, ours=True),
    Peer(TORCHJD, "torchjd", "vectors", torchjd),
    Peer("skfolio RiskBudgeting", "skfolio", "gram", skfolio),
    Peer("riskparity.py", "riskparityportfolio", "gram", riskparity),
    Peer(
        "riskparity.py tol=1e-10",
        "riskparityportfolio",
        "gram",
        partial(riskparity, method="spinu", tol=1e-10, maxiter=20000),
    ),
    Peer("CVXPY + Clarabel", "cvxpy", "gram", cvxpy_clarabel),
    Peer("scipy root hybr", "scipy", "gram", scipy_root),
    Peer("scipy L-BFGS-B", "scipy", "gram", scipy_lbfgsb),
)


def load(peers: tuple[Peer, ...] = PEERS) -> tuple[dict[str, Solve], dict[str, str]]:
    """The peers that can be called, and for the others why not."""
    loaded: dict[str, Solve] = {}
    absent: dict[str, str] = {}
    for peer in peers:
        try:
            loaded[peer.name] = peer.load()
        except ImportError as error:
            absent[peer.name] = f"not installed ({error})"
    return loaded, absent


if __name__ == "__main__":
    from benchmarks.families import FEASIBLE
    from benchmarks.measure import version
    from benchmarks.truth import relative_error, true_alpha

    warnings.simplefilter("ignore")
    rows = FEASIBLE["a"](8, 0)
    solvers, missing = load()
    for peer in PEERS:
        if peer.name in missing:
            print(f"{peer.name:28} {missing[peer.name]}")
            continue
        answer = solvers[peer.name](rows if peer.takes == "vectors" else rows @ rows.T)
        error = relative_error(answer, true_alpha(rows))
        print(f"{peer.name:28} {version(peer.package):16} relative error {error:.1e}")
