"""The questions that solution concepts ask of a feasible set, and what an answer carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Proposal:
    """A feasible point that somebody proposes, with what is needed to judge it.

    utilities : (n,) at the point
    point : what is agreed: a lottery, an allocation, ...
    multipliers : (n,) >= 0, a direction in which the proposer thinks the point supports the set
    n_iter, solver, stopped : how it was found; `stopped` as in RawAnswer
    evidence : whatever helps to bound the support function, such as the multipliers of constraints
    """

    utilities: Any
    point: Any
    multipliers: Any
    n_iter: int = 0
    solver: str = ""
    stopped: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


class Oracle(Protocol):
    """A feasible set S of utilities u, closed under nothing but what its family says."""

    rtol: float
    """Relative accuracy of gains that this way of solving reaches."""

    def feasible(self, proposal: Proposal) -> bool:
        """Whether the point obeys every constraint, up to rounding; a bound is no certificate for one that does not."""
        ...

    @property
    def resolution(self) -> float:
        """Share of the players' gains below which a max-min gain is not told from zero."""
        ...

    def spread(self) -> Any:
        """(n,) how much utilities vary over S, roughly; zeros where that is not known."""
        ...

    @property
    def polyhedral(self) -> bool:
        """Linear programs answer exactly: S is a polytope."""
        ...

    def fair(self, weights: Any, disagreement: Any, aversion: float) -> Proposal:
        """Maximize ``sum w (u - d)**(1 - a) / (1 - a)``, the log for a = 1, over u > d."""
        ...

    def linear(self, direction: Any, floor: Any = None) -> Proposal:
        """Maximize ``direction @ u`` over u >= floor; floor may hold -inf."""
        ...

    def maxmin(self, base: Any, scale: Any, floor: Any = None) -> Proposal:
        """Maximize the least of ``(u_i - base_i) / scale_i`` over the players with scale > 0, where u >= floor."""
        ...

    def support(self, direction: Any, proposal: Proposal) -> float:
        """An upper bound of ``direction @ v`` over S, direction >= 0, tight at the proposal where that is optimal."""
        ...
