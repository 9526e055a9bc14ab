"""Finitely many outcomes, with lotteries between them or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem, InvalidType
from nashsolve.core.validation import check_finite

from .family import Family, refuse


@dataclass(frozen=True, eq=False, repr=False)
class OutcomeBargainingProblem(Family):
    r"""Players bargain over a table of outcomes; with lotteries the feasible set is its convex hull.

    .. math:: \max_{\pi \ge 0,\ \sum_k \pi_k = 1} \sum_i w_i \log\Big(\sum_k \pi_k U_{ki} - d_i\Big)

    Parameters
    ----------
    payoffs : (K, n) real array or DataFrame
        Row k holds what every player gets from outcome k. The columns of a DataFrame name the players, its index the
        outcomes.
    weights : (n,) positive, or a mapping by name, optional
        Bargaining power; ones by default.
    disagreement : (n,), or a mapping by name, optional
        Utilities without agreement, zeros by default.
    names : sequence of n distinct strings, optional
    lotteries : bool
        False allows single outcomes only: the agreement is the outcome with the largest Nash product.
    labels : sequence of K strings, optional
        The outcomes.

    Raises
    ------
    InvalidProblem
        With the argument, index and value.

    Notes
    -----
    `solution.point` is the lottery (K,). [nash1950]_

    Examples
    --------
    >>> import nashsolve as ns
    >>> table = ns.OutcomeBargainingProblem([[4.0, 0.0], [3.0, 3.0], [0.0, 4.0]], weights=[5.0, 1.0])
    >>> print(ns.solve(table).utilities.round(6))
    [3.333333 2.      ]
    """

    payoffs: Any
    weights: Any = None
    disagreement: Any = None
    names: Sequence[str] | None = None
    lotteries: bool = True
    labels: Sequence[str] | None = None
    n: int = field(init=False)
    power: Any = field(init=False)

    def __post_init__(self) -> None:
        names, labels = self.names, self.labels
        table = self.payoffs
        if hasattr(table, "columns") and hasattr(table, "to_numpy"):
            names = [str(c) for c in table.columns] if names is None else names
            labels = [str(k) for k in table.index] if labels is None else labels
            table = table.to_numpy()
        table, _ = arrays.as_float64(table, "payoffs", np)
        if table.ndim != 2:
            raise InvalidProblem(f"payoffs has shape {tuple(table.shape)}; (outcomes, players) is needed")
        if table.shape[0] == 0:
            raise InvalidProblem("payoffs has no outcomes; at least one row is needed")
        refuse(check_finite(table, "payoffs", np, 2))
        if not isinstance(self.lotteries, bool | np.bool_):
            raise InvalidType(f"lotteries is {self.lotteries!r}; True or False is needed")
        if labels is not None:
            labels = tuple(str(label) for label in labels)
            if len(labels) != len(table):
                raise InvalidProblem(f"labels has {len(labels)} entries for {len(table)} outcomes")
        self._set(payoffs=np.array(table), labels=labels)
        self._read_players(table.shape[1], self.weights, self.disagreement, names)

    def outcome(self, k: int) -> str:
        """Label of outcome k."""
        return self.labels[k] if self.labels is not None else f"outcome {k}"

    def interpret(self, point: Any, duals: Any) -> dict[str, Any]:
        """The outcomes that are played, with their probabilities, the likeliest first."""
        played = (point > 1e-9).nonzero()[0]
        likeliest = sorted(zip((-point[played]).tolist(), played.tolist(), strict=True))[:20]
        return {"lottery": {self.outcome(k): -share for share, k in likeliest}}

    def _words(self) -> str:
        kind = "lotteries" if self.lotteries else "no lotteries"
        return f"{len(self.payoffs)} outcomes, {self.n} players, {kind}"
