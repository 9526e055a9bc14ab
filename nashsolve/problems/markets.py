"""Fair division of divisible goods: Fisher markets, whose equilibrium is a Nash solution, and exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.validation import check_finite, check_positive

from .convex import ConvexBargainingProblem
from .domains import Domain
from .family import nearest, read_vector, refuse

_UTILITIES = ("linear", "cobb_douglas")


def fisher_market(
    valuations: Any,
    budgets: Any = None,
    *,
    supply: Any = None,
    utility: str = "linear",
    names: Sequence[str] | None = None,
) -> ConvexBargainingProblem:
    r"""Buyers with budgets share divisible goods; the Nash solution with budgets as weights is the equilibrium.

    .. math:: \max \sum_i b_i \log u_i(x_i), \quad \sum_i x_{ij} \le e_j,\ x \ge 0

    `solution.details` holds the `allocation` (n, m) and, for the Nash solution, the `prices` (m,): every buyer spends
    the budget on the goods that give most per unit of money, and every good with a price is sold out.

    Parameters
    ----------
    valuations : (n, m) >= 0
        What a unit of good j is worth to buyer i; for "cobb_douglas" the exponents, rows adding up to one.
    budgets : (n,) positive, optional
        Ones by default.
    supply : (m,) positive, optional
        Ones by default.
    utility : "linear" or "cobb_douglas"
    names : of the buyers, optional

    Notes
    -----
    [eisenberg_gale1959]_

    Examples
    --------
    >>> import nashsolve as ns
    >>> market = ns.solve(ns.fisher_market([[1.0, 2.0], [1.0, 1.0]], budgets=[3.0, 1.0]))
    >>> print(market.utilities.round(6), market.details["prices"].round(6))
    [2.25 0.75] [1.333333 2.666667]
    """
    worth = _table(valuations, "valuations")
    n, m = worth.shape
    goods = read_vector(supply, "supply", m, None, 1.0)
    refuse(check_positive(goods, "supply", np, 1))
    if utility not in _UTILITIES:
        raise nearest(utility, _UTILITIES, "utility")
    unwanted = np.flatnonzero(worth.max(axis=1) == 0)
    if len(unwanted):
        raise InvalidProblem(f"valuations[{unwanted[0]}] is zero throughout: this buyer can never gain anything")
    utilities: Any
    if utility == "linear":
        utilities = np.zeros((n, n * m))
        for i in range(n):
            utilities[i, i * m : (i + 1) * m] = worth[i]
    else:
        utilities = [_cobb_douglas(worth[i], slice(i * m, (i + 1) * m), i) for i in range(n)]
    return ConvexBargainingProblem(
        utilities=utilities, constraints=_goods(n, goods), weights=budgets, names=names, describe=_market(n, m)
    )


def exchange(
    endowments: Any, exponents: Any = None, *, weights: Any = None, names: Sequence[str] | None = None
) -> ConvexBargainingProblem:
    r"""Traders with Cobb-Douglas tastes redistribute what they own; without agreement each keeps it.

    .. math:: u_i(x_i) = \prod_j x_{ij}^{a_{ij}}

    Parameters
    ----------
    endowments : (n, m) >= 0
    exponents : (n, m) >= 0 with rows adding up to one, optional
        Equal shares by default.
    weights : (n,) positive, optional
    names : optional

    Examples
    --------
    >>> import nashsolve as ns
    >>> print(ns.solve(ns.exchange([[0.5, 0.3], [0.5, 0.7]])).utilities.round(6))
    [0.397845 0.602155]
    """
    own = _table(endowments, "endowments")
    n, m = own.shape
    taste = np.full((n, m), 1.0 / m) if exponents is None else _table(exponents, "exponents")
    if taste.shape != own.shape:
        raise InvalidProblem(f"exponents has shape {taste.shape}, but endowments has {own.shape}")
    total = own.sum(axis=0)
    refuse(check_positive(total, "the total endowment", np, 1))
    utilities = [_cobb_douglas(taste[i], slice(i * m, (i + 1) * m), i) for i in range(n)]
    kept = np.array([np.prod(own[i] ** taste[i]) for i in range(n)])
    return ConvexBargainingProblem(
        utilities=utilities,
        constraints=_goods(n, total),
        disagreement=kept,
        weights=weights,
        names=names,
        describe=_market(n, m),
    )


def _goods(n: int, supply: Any) -> Domain:
    m = len(supply)
    return Domain(n * m, lower=np.zeros(n * m), matrix=np.tile(np.eye(m), (1, n)), limit=supply)


def _market(n: int, m: int) -> Callable[[Any, Any], dict[str, Any]]:
    def describe(point: Any, duals: Any) -> dict[str, Any]:
        found = {"allocation": point.reshape(n, m)}
        return found if duals is None else {**found, "prices": duals.matrix}

    return describe


def _cobb_douglas(exponents: Any, part: slice, i: int) -> Callable[[Any], Any]:
    if abs(exponents.sum() - 1) > 1e-9:
        raise InvalidProblem(f"the exponents of player {i} add up to {exponents.sum():g}; they must add up to one")
    wanted = np.arange(part.start, part.stop)[exponents > 0]
    powers = exponents[exponents > 0]
    return lambda x: np.exp(np.sum(powers * np.log(x[wanted])))


def _table(value: Any, name: str) -> Any:
    found, _ = arrays.as_float64(value, name, np)
    if found.ndim != 2 or 0 in found.shape:
        raise InvalidProblem(f"{name} has shape {tuple(found.shape)}; (players, goods) is needed")
    refuse(check_finite(found, name, np, 2))
    refuse(check_positive(found, name, np, 2, strict=False))
    return np.array(found)
