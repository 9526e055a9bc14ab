"""The first layer's base expert, wherever its parameters lie: whole on every rank, and its gradient back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nashsolve.core.errors import InvalidProblem

from ..experts import Expert
from .gradients import add_gradient, wants_gradient
from .layout import Layout, state_of
from .parts import hold
from .pieces import Pieces, narrow


class OwnBase:
    """Base expert of the first layer of a chain.

    Parameters
    ----------
    member : the first layer
    layout : of the experts, whose teams are used where the base expert is sharded as well
    """

    def __init__(self, member: Any, layout: Layout) -> None:
        self._member, self._layout = member, layout
        self._seen: dict[str, Any] = {}
        self.look()
        if set(self._seen) != set(layout.shapes):
            raise InvalidProblem(f"the base expert has the tensors {list(self._seen)}, experts {list(layout.shapes)}")
        own = Layout([[self._seen]], layout.team, f"base expert of {layout.name}", {})
        if own.shapes != layout.shapes:
            raise InvalidProblem(f"the base expert has the shapes {own.shapes}; the experts have {layout.shapes}")
        self._pieces = Pieces(own.partition, own.shapes, own.shards)

    def now(self) -> dict[str, Any]:
        """Name -> parameter, gathered by FSDP or not."""
        return dict(self._member.own_base())

    def look(self) -> bool:
        """Take notice of the parameters; whether they are sharded as they were."""
        now = self.now()
        if any(isinstance(self._seen.get(k), DTensor) and not isinstance(v, DTensor) for k, v in now.items()):
            return False
        self._seen = now
        return True

    def state(self) -> list[tuple[Any, ...]]:
        """Where the base expert is stored, and its version counters."""
        return [state_of(value) for value in self._seen.values()]

    def whole(self, dtype: torch.dtype) -> Expert:
        """Every tensor in full, detached; one all_gather where it is sharded."""
        held = {name: hold(name, [value], fused=False) for name, value in self._seen.items()}
        found = self._pieces.whole({name: held[name].tensors[0] for name in self._layout.shapes})
        return {name: tensor.detach().to(dtype) for name, tensor in found.items()}

    @property
    def wanted(self) -> bool:
        """Whether any of it takes gradients."""
        return any([wants_gradient(value) for value in self._seen.values()])

    def add(self, whole: Mapping[str, Tensor]) -> None:
        """Add a gradient of the whole base expert, the same on every rank."""
        for name, value in self._seen.items():
            if wants_gradient(value):
                box = hold(name, [value], fused=False).box
                add_gradient(value, narrow(whole[name], box.offset, box.size))
