"""From the chains of a model in one process to those over many."""

from __future__ import annotations

from torch import nn

from nashsolve.core.errors import InvalidProblem

from ..layer import MoE
from .chain import ShardedChain
from .config import DistributedConfig


def shard_chains(
    model: nn.Module, settings: DistributedConfig | None = None, ranks: list[int] | None = None
) -> list[ShardedChain]:
    """Replace every chain that `link` made by one over the ranks; call it after `fully_shard`, DDP or DTensors.

    The chains are computed before every forward pass of the model from now on.

    Parameters
    ----------
    model : with linked `MoE` layers
    settings : how the ranks work together
    ranks : of the default process group that hold the model; None: all

    Returns
    -------
    list of ShardedChain, in the order of the model

    Raises
    ------
    InvalidProblem
        For a model without linked layers.
    """
    heads = [m for m in model.modules() if isinstance(m, MoE) and getattr(m, "chain", None) is not None]
    if not heads:
        raise InvalidProblem("there is no chain in this model; call link(model) before it is sharded")
    found = []
    for head in heads:
        old = head.chain
        layers = [m for m in model.modules() if isinstance(m, MoE) and m.place is not None and m.place[0] is old]
        layers.sort(key=lambda m: m.place[1] if m.place is not None else 0)
        new = ShardedChain(layers, old.config, settings, ranks, name=old.name)
        if old.warm:
            new.alpha_start.copy_(old.alpha_start)
        for position, layer in enumerate(layers):
            layer.join(new, position)
        new.attach(model)
        found.append(new)
    return found
