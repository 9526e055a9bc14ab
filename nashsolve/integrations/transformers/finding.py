"""The blocks of experts in a model, by the architecture's description that checkpoints are read with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from nashsolve.core.errors import InvalidProblem

from ..checkpoints.adapters import Adapter, builtin
from ..torch_moe.strict import nearest
from .experts import ModelExperts
from .routing import ModelRouter


@dataclass(frozen=True)
class Place:
    """Where a feed-forward is.

    Attributes
    ----------
    name : of the feed-forward within the model
    stack : name of the nearest model of transformers around it (encoder or decoder), which gets mask and cache
    layers : name of the list of layers
    index : in that list
    causal : whether its layer hides later tokens from earlier ones
    """

    name: str
    stack: str
    layers: str
    index: int
    causal: bool

    @classmethod
    def of(cls, model: Any, name: str) -> Place:
        """Find it by name: ``model.layers.3.mlp`` is layer 3 of ``model.layers`` in the stack ``model``."""
        parts = name.split(".")
        for k in reversed(range(len(parts))):
            layer = ".".join(parts[: k + 1])
            # A layer has self-attention before its feed-forward, which knows; lists within layers have not.
            aware = [m for m in model.get_submodule(layer).modules() if hasattr(m, "is_causal")]
            if parts[k].isdigit() and aware:
                break
        else:
            raise InvalidProblem(f"feed-forward {name!r} is not in a list of layers with attention")
        stack = next(
            prefix
            for j in reversed(range(k))
            if isinstance(model.get_submodule(prefix := ".".join(parts[:j])), PreTrainedModel)
        )
        layers, index, causal = ".".join(parts[:k]), int(parts[k]), bool(aware[0].is_causal)
        return cls(name, stack, layers, index, causal)


@dataclass(frozen=True)
class Block:
    """A block of experts.

    Attributes
    ----------
    place : where it is
    module : the block
    experts, router : its parts, as merging reads them
    router_name, shared_name : names of its parts; None without a shared expert
    """

    place: Place
    module: nn.Module
    experts: ModelExperts
    router: ModelRouter
    router_name: str
    shared_name: str | None

    @property
    def shared_gate(self) -> str | None:
        """Name of the gate of the shared expert, where there is one."""
        name = f"{self.shared_name}_gate"
        return name if self.shared_name is not None and hasattr(self.module, name) else None


def find_blocks(model: Any) -> list[Block]:
    """All blocks of experts, in the order of the model.

    Raises
    ------
    InvalidProblem
        For an architecture that is not known, and for a model without experts.
    """
    adapter = _adapter(model.config)
    blocks = [
        _block(model, name, module, adapter)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "experts", None), nn.Module) and hasattr(module, _router(adapter))
    ]
    if not blocks:
        raise InvalidProblem(f"{type(model).__name__} has no block of experts; use upcycle for a dense model")
    return blocks


def _adapter(config: Any) -> Adapter:
    known = {kind: adapter for adapter in builtin() for kind in adapter.model_types if kind != "deepseek"}
    kind = str(getattr(config, "model_type", None))
    if kind not in known:
        raise InvalidProblem(f"model_type is {kind!r}; {nearest(kind, sorted(known))}")
    return known[kind]


def _router(adapter: Adapter) -> str:
    return adapter.router.split(".")[0]


def _block(model: Any, name: str, module: Any, adapter: Adapter) -> Block:
    router = _router(adapter)
    shared = None if adapter.shared is None else adapter.shared.split(".")[0]
    return Block(
        Place.of(model, name),
        module,
        ModelExperts(module.experts),
        ModelRouter(getattr(module, router), adapter.scoring),
        router,
        shared if shared is not None and hasattr(module, shared) else None,
    )
