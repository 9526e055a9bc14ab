"""The two ways by which a model's block comes to merge: a registered experts function, or a block in its place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .layer import MergingLayer

IMPLEMENTATION = "nashsolve"
_ATTRIBUTE = "_nashsolve"


def merged_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Experts function of transformers: the merged experts, or the previous function where nothing is merged."""
    layer, previous = getattr(self, _ATTRIBUTE)
    if layer.active:
        result: Tensor = layer(hidden_states)
        return result
    function = ALL_EXPERTS_FUNCTIONS.get_interface(previous, type(self).forward.__wrapped__)
    return function(self, hidden_states, top_k_index, top_k_weights)


def use_function(model: Any, experts: list[tuple[nn.Module, MergingLayer]]) -> list[Callable[[], object]]:
    """Register the experts function and select it; returns what undoes that."""
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, merged_experts)
    previous = model.config._experts_implementation
    for module, layer in experts:
        # In a tuple, which nn.Module does not look into: the layer belongs to the merging, not to the experts.
        setattr(module, _ATTRIBUTE, (layer, previous))
    model.set_experts_implementation(IMPLEMENTATION)

    # Not a closure: a copy of the model must undo itself, not the model that it was copied from.
    return [partial(_unselect, model, previous, [module for module, _ in experts])]


def _unselect(model: Any, previous: str, experts: list[nn.Module]) -> None:
    model.set_experts_implementation(previous)
    for module in experts:
        delattr(module, _ATTRIBUTE)


class MergingBlock(nn.Module):
    """A block with the parts of another one, under the same names, that merges its experts.

    Parameters
    ----------
    block : of the model
    layer : that merges
    router, shared, shared_gate : names of the block's parts; None where it has none
    """

    def __init__(
        self, block: nn.Module, layer: MergingLayer, router: str, shared: str | None, shared_gate: str | None
    ) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.names = (router, shared, shared_gate)
        self.noise = float(getattr(block, "jitter_noise", 0.0))
        # In a tuple, which nn.Module does not look into: the parts are children of this block already.
        self._held = (block, layer)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Merged experts and shared expert, in the shape of the hidden states (batch, length, d)."""
        block, layer = self._held
        block.training = self.training
        if not layer.active:
            result: Tensor = block(hidden_states)
            return result
        x = hidden_states
        if self.training and self.noise > 0:
            x = x * torch.empty_like(x).uniform_(1.0 - self.noise, 1.0 + self.noise)
        router, shared, gate = self.names
        # Asked for what transformers records of it, for balance losses; the weights of the merge are the layer's own.
        getattr(self, router)(x)
        y: Tensor = layer(x)
        if shared is None:
            return y
        own = getattr(self, shared)(hidden_states)
        return y + (own if gate is None else torch.sigmoid(getattr(self, gate)(hidden_states)) * own)


def use_block(parent: nn.Module, name: str, replacement: nn.Module) -> Callable[[], object]:
    """Put a block in the place of another; returns what undoes that."""
    block = getattr(parent, name)
    setattr(parent, name, replacement)
    return partial(setattr, parent, name, block)
