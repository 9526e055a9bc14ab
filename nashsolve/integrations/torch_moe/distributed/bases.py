"""What a chain over many ranks hands out and takes in: base experts on demand, and layers by their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem, InvalidType

from ..chain_config import ChainConfig
from ..curvature import KroneckerCurvature
from ..experts import Expert, ExpertView, Slot
from .config import DistributedConfig
from .layout import Layout

if TYPE_CHECKING:
    from .chain import ShardedChain


class Bases(Sequence[Expert]):
    """Base experts of all layers; each is gathered when it is taken, which every rank must do in the same order."""

    def __init__(self, chain: ShardedChain) -> None:
        self._chain = chain

    def __len__(self) -> int:
        return len(self._chain)

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, slice):
            return [self[k] for k in range(*layer.indices(len(self)))]
        if not -len(self) <= layer < len(self):
            raise IndexError(f"there is no layer {layer} in a chain of {len(self)}")
        return self._chain.base(layer % len(self))


class Outline:
    """A layer by the shapes of its experts, for the checks of `BaseExpertChain`, which must not touch shards."""

    def __init__(self, member: Any, layout: Layout) -> None:
        self._member, self._layout = member, layout

    def expert_view(self) -> ExpertView:
        shapes = self._layout.shapes.items()
        empty = {name: torch.empty(self._layout.n, *shape, device="meta") for name, shape in shapes}
        return ExpertView(tuple(Slot(name, (tensor,), True) for name, tensor in empty.items()))

    def own_base(self) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = self._member.own_base()
        return found

    def chain_curvature(self) -> KroneckerCurvature | None:
        return None


def experts_of(member: Any) -> Any:
    """The experts of a layer, as `ExpertView.of` takes them."""
    if not hasattr(member, "experts"):
        raise InvalidType(f"{type(member).__name__} has no attribute 'experts'; PlainMember(experts) makes a member")
    return member.experts


def check_fit(layout: Layout, members: Sequence[Any], config: ChainConfig, settings: DistributedConfig) -> None:
    """Raise InvalidProblem for what shards of this kind do not allow."""
    cut = [slot for slot, is_cut in layout.cut.items() if is_cut]
    if any(member.chain_curvature() is not None for member in members):
        raise InvalidProblem(
            "curvature in the chain mixes columns of whole matrices, which shards do not have: use curvature.in_chain="
            "False, or BaseExpertChain on replicas (DDP)"
        )
    if cut and settings.bases == "local":
        raise InvalidProblem(f"bases='local' needs shards that cut every expert; those of {cut[0]!r} cut their axis")
    if cut and not config.detach_alpha:
        raise InvalidProblem(
            "detach_alpha=False needs all experts' columns on a rank in the backward pass, too: shard the experts by "
            "Shard(1), or keep detach_alpha=True"
        )
