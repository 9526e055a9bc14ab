"""What a solver is: a frozen options object that proposes an answer for the core to judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .arrays import Array
from .problem import BargainingProblem


@dataclass(frozen=True)
class RawAnswer:
    """A solver's proposal, in the units of the problem that it was given.

    alpha : (..., n) multipliers `w / gains`; for an unsolvable item, the direction in which they diverged
    n_iter : iterations used, an int or an int array (...)
    stopped : why it stopped early, an empty string when it believes in its answer
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
