"""Experts as transformers stores them, seen as vectors: nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.base import shared_slices
from ..torch_moe.experts import Expert, ExpertView, Slot
from ..torch_moe.fingerprint import Fingerprint
from .spread import is_spread, spread_view


class ModelExperts:
    """The experts of one block, with the slots up_proj (gate first where there is one) and down_proj.

    Parameters
    ----------
    module : fused parameters ``gate_up_proj`` (N, 2h, d) and ``down_proj`` (N, d, h), or a ModuleDict of feed-forwards
        with linear layers ``wi`` and ``wo``
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.fused = not isinstance(module, nn.ModuleDict)
        unusual = [
            flag for flag in ("is_transposed", "has_bias", "has_post_expert_norm") if getattr(module, flag, False)
        ]
        if unusual or not (getattr(module, "has_gate", True) and getattr(module, "is_concatenated", True)):
            raise InvalidProblem(f"experts of {type(module).__name__} are stored in a layout that is not supported")
        self.spread = is_spread(module)
        view = self.expert_view()
        self.n_experts = view.n
        self.d_model, self.d_hidden = view.shapes["down_proj"]
        self.gated = view.shapes["up_proj"][0] == 2 * self.d_hidden

    def expert_view(self) -> ExpertView:
        """The experts as they are now."""
        if self.fused:
            up, down = (self.module.gate_up_proj,), (self.module.down_proj,)
        else:
            up = tuple(expert.wi.weight for expert in self.module.children())
            down = tuple(expert.wo.weight for expert in self.module.children())
        return ExpertView((Slot("up_proj", up, self.fused), Slot("down_proj", down, self.fused)))

    def merging_view(self) -> ExpertView:
        """The experts as a merge rule uses them: of those on other ranks only sums are known."""
        return spread_view(self.expert_view()) if self.spread else self.expert_view()

    def expert(self, i: int) -> Expert:
        """Expert i as views by slot."""
        return self.expert_view().expert(i)

    def activation(self, hidden: Tensor) -> Tensor:
        """What the model's own experts do between their two linear layers."""
        if self.fused:
            result: Tensor = self.module._apply_gate(hidden)
            return result
        first = next(iter(self.module.children()))
        return first.dropout(first.act(hidden))


class SharedSlices:
    """The shared expert of a block, cut into base experts of the routed shape; cut anew when it has changed.

    Parameters
    ----------
    owner : feed-forward with gate_proj, up_proj and down_proj
    shapes : slot -> shape of one routed expert
    """

    def __init__(self, owner: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.owner, self.shapes = owner, dict(shapes)
        self._found: tuple[Fingerprint, bool, list[Expert]] | None = None

    def cut(self, index: int) -> Expert:
        """Slice `index`, with gradient to the shared expert."""
        tensors, grad = list(self.owner.parameters()), torch.is_grad_enabled()
        if self._found is None or self._found[1] != grad or not self._found[0].matches(tensors):
            up = torch.cat([self.owner.gate_proj.weight, self.owner.up_proj.weight])
            whole = {"up_proj": up, "down_proj": self.owner.down_proj.weight}
            self._found = Fingerprint(tensors), grad, shared_slices(whole, self.shapes, gated=("up_proj",))
        return self._found[2][index]

    @property
    def count(self) -> int:
        """Number of slices."""
        width: int = self.owner.down_proj.weight.shape[1]
        return width // self.shapes["down_proj"][1]

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a graph."""
        return self.__dict__ | {"_found": None}
