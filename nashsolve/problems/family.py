"""What every family of problems shares with the ball problem: players, weights, disagreement, names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np

from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem
from nashsolve.core.validation import check_finite, check_positive, read_names


class Family:
    """Base of the problems that are solved in NumPy, one at a time.

    Attributes
    ----------
    n : number of players
    power : (n,) bargaining power, ones by default
    disagreement : (n,) utilities without agreement, zeros by default
    names : the players, or None
    """

    xp = np
    kind = "float64"
    batch_shape: tuple[int, ...] = ()
    invalid = None
    invalid_reason = ""
    gram_error = 0.0
    white = None
    metric = None

    n: int
    power: Any
    weights: Any
    disagreement: Any
    names: Any

    def player(self, i: int) -> str:
        """Name of player i."""
        return self.names[i] if self.names is not None else f"player {i}"

    def _read_players(self, n: int, weights: Any, disagreement: Any, names: Sequence[str] | None) -> None:
        if n == 0:
            raise InvalidProblem("there are no players; at least one is needed")
        self._set(n=n, names=read_names(names, n))
        given = read_vector(weights, "weights", n, self.names, 1.0)
        if weights is not None:
            refuse(check_positive(given, "weights", np, 1))
        threat = read_vector(disagreement, "disagreement", n, self.names, 0.0)
        if disagreement is not None:
            refuse(check_finite(threat, "disagreement", np, 1))
        self._set(power=given, weights=None if weights is None else given, disagreement=threat)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            self.__dict__[name] = value

    def interpret(self, point: Any, duals: Any) -> dict[str, Any]:
        """What else an agreement says in the words of the family, for `solution.details`."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._words()})"

    def _words(self) -> str:
        return f"{self.n} players"

    # Conveniences one step up the house; imported by name so that the floors below stay free of those above.

    def solve(self, **options: Any) -> Any:
        """`nashsolve.solve(self, **options)`."""
        return _above("solve").solve(self, **options)

    def sweep(self, parameter: str, values: Any, **options: Any) -> Any:
        """`nashsolve.sweep(self, parameter, values, **options)`."""
        return _above("sensitivity").sweep(self, parameter, values, **options)


def _above(module: str) -> Any:
    from importlib import import_module

    return import_module(f"nashsolve.{module}")


def refuse(finding: Any) -> None:
    """Raise what a check has found."""
    if finding is not None:
        raise InvalidProblem(finding[1])


def read_vector(value: Any, name: str, n: int, names: Sequence[str] | None, default: float) -> Any:
    """(n,) float64 from a number per player, or from a mapping by name: a fresh array, or the shared default."""
    if value is None:
        return _constant(n, default)
    if isinstance(value, Mapping):
        return np.array([_from_mapping(value, name, names, i) for i in range(n)], dtype=float)
    found, _ = arrays.as_float64(value, name, np)
    if found.shape != (n,):
        raise InvalidProblem(f"{name} has shape {tuple(found.shape)}; ({n},) is needed, one number a player")
    return np.array(found)


@lru_cache(maxsize=64)
def _constant(n: int, value: float) -> Any:
    """(n,) of one number, read-only."""
    found = np.full(n, value)
    found.setflags(write=False)
    return found


def _from_mapping(value: Mapping[str, Any], name: str, names: Sequence[str] | None, i: int) -> float:
    if names is None:
        raise InvalidProblem(f"{name} is given by name, but the players have no names; pass names=")
    for key in value:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidProblem(f"{name} has an unknown player {key!r}.{hint} Players: {', '.join(names)}.")
    if names[i] not in value:
        raise InvalidProblem(f"{name} has no entry for player {names[i]!r}")
    found, _ = arrays.as_float64(value[names[i]], f"{name}[{names[i]!r}]", np)
    if found.shape != ():
        raise InvalidProblem(f"{name}[{names[i]!r}] has shape {tuple(found.shape)}; one number is needed")
    return float(found)


def nearest(key: str, known: Sequence[str], what: str) -> InvalidProblem:
    """The error for an unknown choice, with the nearest valid one."""
    near = get_close_matches(str(key), known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InvalidProblem(f"unknown {what} {key!r}.{hint} Choose one of {', '.join(known)}.")
