"""What a layer needs to be a link of a chain of base experts."""

from __future__ import annotations

from typing import Any

from .chain import BaseExpertChain
from .curvature import KroneckerCurvature


class ChainMember:
    """A module with experts that may join a chain; it sets `config`, `curvature`, and `base` itself."""

    config: Any
    curvature: Any
    base: Any
    # In a tuple, which nn.Module does not look into: the chain is a child of its first layer only.
    _place: tuple[BaseExpertChain, int] | None = None

    def chain_curvature(self) -> KroneckerCurvature | None:
        """The curvature where it acts in the propagation of the base expert."""
        return self.curvature if self.config.curvature.in_chain else None

    @property
    def place(self) -> tuple[BaseExpertChain, int] | None:
        """The chain that the layer is a part of, and its position there."""
        return self._place

    def join(self, chain: BaseExpertChain, position: int) -> None:
        """Become layer `position` of a chain; a later layer gives up its own base expert."""
        self._place = (chain, position)
        if position == 0:
            self.chain = chain
        else:
            self.base = None
