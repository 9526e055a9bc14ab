"""What a solver is: a frozen options object that proposes an answer for the core to judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

from .arrays import EPS64, Array
from .errors import InvalidProblem
from .problem import BargainingProblem

PRECISIONS = ("float64", "float32")
"""Numbers that an iteration may run in; every answer is judged in float64."""

BLUR32 = 4.01 * EPS64 * 2**29
"""Squared margin, for each player, at which an iteration in float32 has given up: `blur` of the kernel, which is in
float32 itself, and a little more."""


def read_precision(value: Any) -> str:
    """`value`, one of PRECISIONS; anything else is refused."""
    if isinstance(value, str) and value in PRECISIONS:
        return value
    near = get_close_matches(str(value), PRECISIONS, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidProblem(f"precision is {value!r}; choose one of {', '.join(PRECISIONS)}.{hint}")


def default_goal(kind: str, precision: str = "float64") -> float:
    """Relative accuracy of alpha that a solve aims at where nobody says: of a dtype, iterated in `precision`."""
    return 1e-10 if kind == precision == "float64" else 1e-5


@dataclass(frozen=True)
class RawAnswer:
    """A solver's proposal, in the units of the problem that it was given.

    alpha : (..., n) multipliers `w / gains`; for an unsolvable item, the direction in which they diverged
    n_iter : iterations used, an int or an int array (...)
    stopped : why it stopped early, an empty string when it believes in its answer; "precision" from an iteration in
        float32, which may lack digits that the core will ask for
    ball_multiplier : (...) where the solver knows it; None lets the core compute it
    coefficients : (..., n) where `alpha / ball_multiplier` is undefined (inactive ball), NaN for other items
    details : anything worth showing, kept in `solution.details`
    """

    alpha: Array
    n_iter: Any
    stopped: str = ""
    ball_multiplier: Array | None = None
    coefficients: Array | None = None
    details: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Solver(Protocol):
    """The protocol of every engine; options are the fields of a frozen dataclass."""

    @property
    def name(self) -> str: ...

    @property
    def rtol(self) -> float | None:
        """Relative accuracy of alpha that the engine aims at; None for the default of the dtype."""
        ...

    def why_not(self, problem: BargainingProblem) -> str | None:
        """None when it can take the problem, else the reason."""
        ...

    def solve(self, problem: BargainingProblem, start: Array | None) -> RawAnswer: ...
