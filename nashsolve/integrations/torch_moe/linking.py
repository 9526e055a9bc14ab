"""Join the layers of a model into chains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from torch import nn

from nashsolve.core.errors import InvalidProblem

from .chain import BaseExpertChain, Member
from .config import ChainConfig, MoEConfig
from .layer import MoE


def link(model: nn.Module | Sequence[MoE], stacks: Sequence[str] | None = None) -> list[BaseExpertChain]:
    """Join the layers that have a chain in their config, in the order of the model.

    A new chain starts where the number or the shapes of experts or the settings of the chain change (stages of Swin),
    and where a new stack begins. Layers of other kinds in between do not interrupt a chain.

    Parameters
    ----------
    model : a module that holds `MoE` layers, or the layers
    stacks : prefixes of module names, each with chains of its own ("encoder", "decoder"); by default one for all

    Returns
    -------
    list of BaseExpertChain; each is also a child ``chain`` of its first layer, where its state is saved

    Raises
    ------
    InvalidProblem
        For a stack without layers, a layer in no stack, or a model without layers to join.
    """
    named = list(model.named_modules()) if isinstance(model, nn.Module) else [(str(k), m) for k, m in enumerate(model)]
    layers = [(name, m) for name, m in named if isinstance(m, MoE) and m.config.chain is not None]
    if not layers:
        raise InvalidProblem("there is no MoE layer with a chain in its config to join")
    chains = join_runs(layers, lambda name, layer: (_stack(name, stacks), _signature(layer)))
    missing = set(stacks or ()) - {_stack(name, stacks) for name, _ in layers}
    if missing:
        raise InvalidProblem(f"stack {sorted(missing)[0]!r} holds no MoE layer with a chain")
    return chains


class Joins(Member, Protocol):
    """A member with settings of a chain, which is told its place."""

    config: MoEConfig

    def join(self, chain: BaseExpertChain, position: int) -> None:
        """Become layer `position` of a chain."""
        ...


T = TypeVar("T", bound=Joins)


def join_runs(layers: Sequence[tuple[str, T]], key: Callable[[str, T], Any]) -> list[BaseExpertChain]:
    """One chain for every run of named layers with the same key, in their order."""
    chains = []
    for _, run in itertools.groupby(layers, lambda item: key(*item)):
        members = list(run)
        config = members[0][1].config.chain or ChainConfig()
        chain = BaseExpertChain([layer for _, layer in members], config, name=f"chain at {members[0][0]}")
        for position, (_, layer) in enumerate(members):
            layer.join(chain, position)
        chains.append(chain)
    return chains


def _stack(name: str, stacks: Sequence[str] | None) -> str:
    if stacks is None:
        return ""
    for prefix in stacks:
        if name == prefix or name.startswith(prefix + "."):
            return prefix
    raise InvalidProblem(f"layer {name!r} belongs to none of the stacks {', '.join(stacks)}")


def _signature(layer: MoE) -> tuple[Any, ...]:
    """What the layers of one chain have in common."""
    view = layer.expert_view()
    return view.n, tuple(view.shapes.items()), layer.config.chain
