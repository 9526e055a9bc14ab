"""Dividing a sum of money: transferable utility, outside options, and the bargain of alternating offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem

from .convex import ConvexBargainingProblem
from .domains import Domain
from .family import read_vector


def split(
    total: float,
    players: int | None = None,
    *,
    disagreement: Any = None,
    weights: Any = None,
    outside: Any = None,
    names: Sequence[str] | None = None,
) -> ConvexBargainingProblem:
    r"""Players share `total`; the Nash solution is :math:`d_i + p_i (V - \sum_j d_j)` with shares of power p.

    Parameters
    ----------
    total : finite, what there is to share
    players : number of players; needed where no argument tells it
    disagreement : (n,), optional
        What each gets when the talks break down: it moves the agreement.
    weights : (n,) positive, optional
    outside : (n,), optional
        What each could take elsewhere: the agreement must give at least that, and it moves nothing while it does not
        bind. Minus infinity where there is none. [binmore_rubinstein_wolinsky1986]_
    names : optional

    Examples
    --------
    >>> import nashsolve as ns
    >>> print(ns.solve(ns.split(100.0, disagreement=[10.0, 30.0])).utilities.round(6))
    [40. 60.]
    >>> print(ns.solve(ns.split(1.0, outside=[0.7, 0.0])).utilities.round(6))
    [0.7 0.3]
    """
    total = _number(total, "total")
    n = _players(players, disagreement, weights, outside, names)
    d = read_vector(disagreement, "disagreement", n, names, 0.0)
    room = abs(total - d.sum()) + max(abs(total), float(abs(d).max()), 1.0)
    low = d - room  # nobody pays more than all that is at stake
    if outside is not None:
        options = read_vector(outside, "outside", n, names, -np.inf)
        if np.isnan(options).any() or (options == np.inf).any():
            raise InvalidProblem("outside holds nan or infinity; give numbers, or minus infinity for none")
        if options[np.isfinite(options)].sum() > total and np.isfinite(options).all():
            raise InvalidProblem(f"the outside options add up to {options.sum():g}, more than the total {total:g}")
        low = np.maximum(low, options)
    return ConvexBargainingProblem(
        utilities=np.eye(n),
        constraints=Domain(n, lower=low, matrix=np.ones((1, n)), limit=[total]),
        disagreement=d,
        weights=weights,
        names=names,
    )


def outside_options(problem: ConvexBargainingProblem, outside: Any) -> ConvexBargainingProblem:
    """The problem with the further constraint that every player gets at least `outside` (n,) or by name.

    Outside options constrain the agreement; they are not the disagreement point. Takes linear and CVXPY utilities.
    """
    n = problem.n
    floor = read_vector(outside, "outside", n, problem.names, -np.inf)
    held = np.flatnonzero(np.isfinite(floor))
    if problem.form == "functions":
        raise InvalidProblem("outside options need linear or CVXPY utilities; write the utilities with CVXPY")
    limits: Any
    if problem.form == "linear":
        rows = problem.utilities[held]
        limits = problem.constraints & Domain(rows.shape[1], matrix=-rows, limit=problem.offset[held] - floor[held])
    else:
        limits = [*problem.constraints, *[problem.utilities[i] >= float(floor[i]) for i in held]]
    return ConvexBargainingProblem(
        utilities=problem.utilities if problem.form == "linear" else list(problem.utilities),
        constraints=limits,
        disagreement=problem.disagreement,
        weights=problem.power,
        names=problem.names,
        offset=problem.offset,
        describe=problem.describe,
    )


def alternating_offers(rates: Any, delay: float) -> Any:
    r"""Shares (2,) of a unit pie when two players make offers in turn, the first of them first.

    .. math:: x_1 = \frac{1 - \delta_2}{1 - \delta_1 \delta_2}, \quad \delta_i = e^{-r_i \Delta}

    As the delay goes to zero they go to the Nash solution with weights ``1 / rates``. [rubinstein1982]_

    Parameters
    ----------
    rates : (2,) positive discount rates
    delay : > 0, time between offers
    """
    r = read_vector(rates, "rates", 2, None, 1.0)
    if not (r > 0).all():
        raise InvalidProblem(f"rates are {r}; they must be positive")
    if not (np.isfinite(delay) and delay > 0):
        raise InvalidProblem(f"delay is {delay}; it must be positive and finite")
    first = np.expm1(-r[1] * delay) / np.expm1(-(r[0] + r[1]) * delay)
    return np.array([first, 1 - first])


def _number(value: Any, name: str) -> float:
    found, _ = arrays.as_float64(value, name, np)
    if found.shape != () or not np.isfinite(found):
        raise InvalidProblem(f"{name} is {value!r}; one finite number is needed")
    return float(found)


def _players(players: int | None, *given: Any) -> int:
    sizes = {len(v) for v in given if v is not None}
    if players is not None:
        sizes.add(players)
    if not sizes:
        raise InvalidProblem("the number of players is not known: give players, disagreement, weights or names")
    if len(sizes) > 1:
        raise InvalidProblem(f"the arguments speak of {' and '.join(map(str, sorted(sizes)))} players")
    return int(sizes.pop())
