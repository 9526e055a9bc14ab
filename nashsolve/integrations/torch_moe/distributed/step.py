"""What one state of the parameters gave, for as long as it lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..chain_plan import Plan
from ..experts import Expert
from .parts import Held


@dataclass
class Step:
    """One computation of a chain on one rank.

    state : of the parameters
    layers : what this rank holds of every layer that moves the base expert
    start : columns of the first base expert that this rank's experts have
    pieces : of every later base expert, what this rank keeps: leaves of the graph, where gradients gather
    first : the whole first base expert as leaves, where the chain differentiates its use in the first layer
    plans : by group of slots
    """

    state: list[Any]
    layers: list[dict[str, Held]]
    start: Expert
    pieces: list[Expert]
    first: Expert | None = None
    plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def leaves(self) -> list[Any]:
        """All tensors that gradients gather in."""
        first = [] if self.first is None else list(self.first.values())
        return [*first, *(tensor for piece in self.pieces for tensor in piece.values())]
