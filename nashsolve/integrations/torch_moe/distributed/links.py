"""A layer as one rank's chain sees it: its own shards, and what it asks of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nashsolve.tall import combine

from ..chain_plan import Link
from ..experts import Expert, ExpertView, Slot
from .layout import Layout
from .parts import Held


@dataclass(frozen=True)
class LocalView(ExpertView):
    """The shards of one rank, which may be of other experts from slot to slot.

    players : number of all experts
    layer : slot -> what this rank holds
    """

    players: int = 0
    layer: Mapping[str, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The layout has checked what there is to check."""

    @property
    def n(self) -> int:
        return self.players


@dataclass(frozen=True)
class ShardLink(Link):
    """One layer's shards on this rank.

    layout : of the chain
    shards : slot -> what this rank holds
    """

    whole: ClassVar[bool] = False

    layout: Layout | None = None
    shards: Mapping[str, Held] = field(default_factory=dict)

    def step(self, base: Expert, coefficients: np.ndarray) -> list[Tensor] | None:
        """Where shards cut the expert axis: the sum over this rank's experts, then over the ranks."""
        layout = self._layout
        if not any(layout.cut[slot.name] for slot in self.view.slots):
            return None
        found = {slot.name: self._own_step(slot, base[slot.name], coefficients) for slot in self.view.slots}
        asked = [slot.name for slot in self.view.slots if layout.cut[slot.name]]
        for team, names in groupby(asked, key=lambda name: layout.peers[name]):
            if team is not None:
                parts = [found[name] for name in names]
                flat = parts[0].view(-1) if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])
                team.all_reduce(flat)
                for part, summed in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
                    part.copy_(summed.view(part.shape))
        return list(found.values())

    def held(self, slot: Slot, weights: Tensor) -> Tensor:
        start, stop = self.shards[slot.name].box.rows if slot.fused else (0, len(weights))
        return weights[start:stop]

    def summed(self, pairs: Tensor) -> Tensor:
        team = self._layout.shards
        if team is None:
            return pairs
        total = pairs.to(self._layout.device)
        team.all_reduce(total)
        return total.cpu()

    @property
    def _layout(self) -> Layout:
        assert self.layout is not None
        return self.layout

    def _own_step(self, slot: Slot, base: Tensor, coefficients: np.ndarray) -> Tensor:
        start, stop = self.shards[slot.name].box.rows if slot.fused else (0, len(coefficients))
        if start == stop or not base.numel():
            return torch.zeros_like(base)
        rows = [slot.expert(i) for i in range(slot.n)]
        # A momentum of zero leaves the step itself in the buffer.
        return combine(base, rows, coefficients[start:stop], momentum=0.0).buffers[0]


def link_of(layout: Layout, layer: Mapping[str, Held], names: Sequence[str]) -> ShardLink:
    """The link of some slots of a layer."""
    slots = tuple(Slot(name, layer[name].tensors, layer[name].fused) for name in names)
    return ShardLink(LocalView(slots, layout.n, layer), layout=layout, shards=layer)


def columns_of_whole(layer: Mapping[str, Held], whole: Mapping[str, Tensor]) -> Expert:
    """Of a whole expert, the columns that this rank's experts have, copied; none for a rank without experts."""
    found = {}
    for name, held in layer.items():
        empty = held.fused and held.box.rows[0] == held.box.rows[1]
        size = (0, *held.box.size[1:]) if empty else held.box.size
        window = tuple(slice(o, o + s) for o, s in zip(held.box.offset, size, strict=True))
        found[name] = whole[name][window].contiguous()
    return found
