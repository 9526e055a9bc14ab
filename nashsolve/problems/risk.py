"""Risk budgeting: portfolios in which every asset carries a given share of the risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nashsolve.core.arrays import to_numpy
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution


def risk_budgeting(covariance: Any, budgets: Any = None, *, names: Sequence[str] | None = None) -> BargainingProblem:
    r"""Assets bargain over a portfolio; at the Nash solution asset i contributes the share :math:`b_i` of the risk.

    .. math:: x_i (\Sigma x)_i = b_i

    It is the equation of the ball problem with the covariance as Gram matrix; read the portfolio with `portfolio`.

    Parameters
    ----------
    covariance : (n, n) positive semidefinite
    budgets : (n,) positive, optional
        Shares of risk, equal by default.
    names : of the assets, optional

    Notes
    -----
    [maillard_roncalli_teiletche2010]_, [spinu2013]_

    Examples
    --------
    >>> import nashsolve as ns
    >>> book = ns.portfolio(ns.solve(ns.risk_budgeting([[0.01, -0.021], [-0.021, 0.09]])))
    >>> print(book.weights.round(6), book.contributions.round(6))
    [0.75 0.25] [0.5 0.5]
    """
    return BargainingProblem(gram=covariance, weights=budgets, names=names)


@dataclass(frozen=True)
class Portfolio:
    """weights (n,), adding up to one; volatility; contributions (n,), the shares of the risk."""

    weights: Any
    volatility: float
    contributions: Any


def portfolio(solution: Solution) -> Portfolio:
    """The fully invested portfolio of a risk budgeting solution."""
    problem = solution.problem
    gram = problem.gram if isinstance(problem, BargainingProblem) else None
    if gram is None or problem.batch_shape or not solution.success:
        raise InvalidProblem("portfolio needs the solution of one solved problem made by risk_budgeting")
    a = to_numpy(solution.alpha).astype(float)
    covariance = to_numpy(gram).astype(float)
    x = a / a.sum()
    risk = covariance @ x
    variance = float(x @ risk)
    return Portfolio(x, float(np.sqrt(variance)), x * risk / variance)
