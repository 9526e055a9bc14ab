"""From the chains of a model in one process to those over many."""

from __future__ import annotations

from typing import Any

from torch import nn

from nashsolve.core.errors import InvalidProblem

from ..chain import BaseExpertChain
from .chain import ShardedChain
from .config import DistributedConfig


def shard_chains(
    model: nn.Module, settings: DistributedConfig | None = None, ranks: list[int] | None = None
) -> list[ShardedChain]:
    """Replace every chain of a model by one over the ranks; call it after `fully_shard`, DDP or DTensors.

    The chains are computed before every forward pass of the model from now on.

    Parameters
    ----------
    model : with `MoE` layers that `link` has joined, or a transformers model that `convert` or `upcycle` has changed
    settings : how the ranks work together
    ranks : of the default process group that hold the model; None: all

    Returns
    -------
    list of ShardedChain, in the order of the model

    Raises
    ------
    InvalidProblem
        For a model without chains.
    """
    joined = [(module, place) for module in model.modules() if (place := _place(module)) is not None]
    chains = list(dict.fromkeys(chain for _, (chain, _) in joined))
    if not chains:
        raise InvalidProblem("there is no chain in this model; call link(model) or convert before it is sharded")
    return [_sharded(model, old, joined, settings, ranks) for old in chains]


def _place(module: nn.Module) -> tuple[BaseExpertChain, int] | None:
    """The chain of a layer and its position there."""
    return getattr(module, "place", None) if hasattr(module, "join") else None


def _sharded(model: nn.Module, old: BaseExpertChain, joined: Any, settings: Any, ranks: Any) -> ShardedChain:
    layers: list[Any] = [m for m, (chain, _) in sorted(joined, key=lambda item: item[1][1]) if chain is old]
    new = ShardedChain(layers, old.config, settings, ranks, name=old.name)
    if old.warm:
        new.alpha_start.copy_(old.alpha_start)
    for position, layer in enumerate(layers):
        layer.join(new, position)
    for module in model.modules():
        swap: Any = getattr(module, "swap_chain", None)
        if swap is not None:
            swap(old, new)
    new.attach(model)
    return new
