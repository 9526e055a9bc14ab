"""Concave utilities over a convex set: matrices, plain Python functions, or CVXPY expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem, InvalidType, MissingExtra
from nashsolve.core.validation import check_finite

from .domains import Domain
from .family import Family, read_vector, refuse


@dataclass(frozen=True, eq=False, repr=False)
class ConvexBargainingProblem(Family):
    r"""Players with concave utilities bargain over the points of a convex set.

    .. math:: \max_{x \in X} \sum_i w_i \log(u_i(x) - d_i)

    Parameters
    ----------
    utilities : one of three kinds, a sequence with one entry a player, or a mapping by name
        Numbers (n, p): linear utilities ``utilities @ x + offset``. Functions of x (p,): concave and smooth, written
        with arithmetic, powers, sums, ``@`` and NumPy functions; derivatives are taken automatically. CVXPY
        expressions: scalar and concave.
    constraints : a Domain (`simplex`, `box`, `ball`, `polytope` or an intersection) for the first two kinds, a list of
        CVXPY constraints for the third
    disagreement : (n,), or a mapping by name, optional
        Utilities without agreement, zeros by default.
    weights : (n,) positive, or a mapping by name, optional
    names : sequence of n distinct strings, optional
        Taken from the mapping where `utilities` is one.
    offset : (n,), optional
        Added to linear utilities.
    describe : function (point, duals) -> dict, optional
        Further entries of `solution.details`, in the words of the application.

    Raises
    ------
    InvalidProblem
        For shapes, names, utilities that are not concave, an empty set, or a utility without bound.

    Notes
    -----
    `solution.point` is x, or the values of the CVXPY variables by name. [nash1950]_, [diamond_boyd2016]_

    Examples
    --------
    >>> import nashsolve as ns
    >>> pie = ns.ConvexBargainingProblem(
    ...     utilities={"union": lambda x: x[0] ** 0.5, "firm": lambda x: x[1]}, constraints=ns.simplex(2)
    ... )
    >>> print(ns.solve(pie).point.round(6))
    [0.333333 0.666667]
    """

    utilities: Any
    constraints: Any = None
    disagreement: Any = None
    weights: Any = None
    names: Sequence[str] | None = None
    offset: Any = None
    describe: Callable[[Any, Any], dict[str, Any]] | None = None
    n: int = field(init=False)
    power: Any = field(init=False)
    form: str = field(init=False)

    def __post_init__(self) -> None:
        given, names = self.utilities, self.names
        if isinstance(given, Mapping):
            if names is not None and tuple(names) != tuple(given):
                raise InvalidProblem(
                    f"names are {tuple(names)}, but utilities is keyed by {tuple(given)}; leave out names"
                )
            names, given = list(given), list(given.values())
        entries: Any = given if hasattr(given, "shape") else list(given)
        self._set(form=_form(entries))
        if self.form == "linear":
            entries = self._read_matrix(entries)
        n = len(entries)
        self._read_players(n, self.weights, self.disagreement, names)
        if self.form == "linear":
            offset = read_vector(self.offset, "offset", n, self.names, 0.0)
            if self.offset is not None:
                refuse(check_finite(offset, "offset", np, 1))
            self._set(offset=offset)
        elif self.offset is not None:
            raise InvalidProblem("offset belongs to linear utilities; add it inside the functions or expressions")
        self._set(utilities=entries if self.form == "linear" else tuple(entries))
        if self.form == "cvxpy":
            self._check_expressions()
        elif not isinstance(self.constraints, Domain):
            raise InvalidType(
                f"constraints is {type(self.constraints).__name__}; matrices and functions need a Domain, such as "
                "simplex(2), box(0, 1), ball(3, radius) or polytope(matrix, limit)"
            )
        elif self.form == "linear" and self.constraints.size != entries.shape[1]:
            raise InvalidProblem(
                f"utilities has rows of {entries.shape[1]} coordinates, but constraints has {self.constraints.size}"
            )

    def _read_matrix(self, entries: Any) -> Any:
        rows, _ = arrays.as_float64(entries, "utilities", np)
        if rows.ndim != 2:
            raise InvalidProblem(f"utilities has shape {tuple(rows.shape)}; (players, coordinates) is needed")
        refuse(check_finite(rows, "utilities", np, 2))
        return np.array(rows)

    def _check_expressions(self) -> None:
        cp = load_cvxpy()
        for i, u in enumerate(self.utilities):
            if not u.is_scalar():
                raise InvalidProblem(f"utilities[{i}] has shape {u.shape}; a scalar expression is needed")
            if not u.is_concave():
                raise InvalidProblem(
                    f"utilities[{i}] of {self.player(i)} is not concave by the rules of CVXPY (its curvature is "
                    f"{u.curvature}): {str(u)[:60]}"
                )
        limits = [] if self.constraints is None else self.constraints
        if isinstance(limits, Domain):
            raise InvalidType("constraints is a Domain, but CVXPY utilities need a list of CVXPY constraints")
        limits = list(limits)
        for i, limit in enumerate(limits):
            if not isinstance(limit, cp.constraints.constraint.Constraint):
                raise InvalidType(f"constraints[{i}] is {type(limit).__name__}; a CVXPY constraint is needed")
            if not limit.is_dcp():
                raise InvalidProblem(f"constraints[{i}] is not convex by the rules of CVXPY: {str(limit)[:60]}")
        self._set(constraints=tuple(limits))

    def interpret(self, point: Any, duals: Any) -> dict[str, Any]:
        """What `describe` adds."""
        return {} if self.describe is None else self.describe(point, duals)

    def _words(self) -> str:
        where = f"{self.constraints.size} coordinates" if isinstance(self.constraints, Domain) else "CVXPY"
        return f"{self.n} players, {self.form} utilities, {where}"


def _form(entries: Any) -> str:
    if hasattr(entries, "shape") and not type(entries).__module__.startswith("cvxpy"):
        return "linear"
    if not entries:
        raise InvalidProblem("utilities is empty; at least one player is needed")
    kinds = {
        "cvxpy" if type(u).__module__.startswith("cvxpy") else "functions" if callable(u) else "linear" for u in entries
    }
    if len(kinds) > 1:
        raise InvalidType(f"utilities mixes {' and '.join(sorted(kinds))}; give all in one form")
    return kinds.pop()


def load_cvxpy() -> Any:
    """The package, or the line that installs it."""
    try:
        import cvxpy
    except ImportError as error:
        raise MissingExtra("cvxpy", "cvxpy", "expressions as utilities") from error
    return cvxpy
