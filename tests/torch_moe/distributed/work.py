"""What ranks compute in the tests: a chain over shards of one known model, and the same in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain

SHAPES = {"gate_up_proj": (6, 5), "down_proj": (5, 3)}
Model = tuple[list[dict[str, Tensor]], dict[str, Tensor]]


def draw(n: int, layers: int = 4, shapes: Mapping[str, tuple[int, ...]] = SHAPES, seed: int = 0) -> Model:
    """Experts of every layer and the base expert of the first, double precision."""
    generator = torch.Generator().manual_seed(seed)

    def tensors(*lead: int) -> dict[str, Tensor]:
        return {k: torch.randn(*lead, *s, dtype=torch.float64, generator=generator) for k, s in shapes.items()}

    return [tensors(n) for _ in range(layers)], tensors()


def own_loss(bases: Sequence[Mapping[str, Tensor]], batch: int) -> Tensor:
    """A scalar of one batch, which depends on every entry of every base expert."""
    generator = torch.Generator().manual_seed(100 + batch)
    total = torch.zeros((), dtype=torch.float64)
    for base in bases:
        for name in sorted(base):
            total = (
                total
                + (torch.randn(base[name].shape, dtype=torch.float64, generator=generator) * base[name].sin()).sum()
            )
    return total


def alone(model: Model, config: ChainConfig, batches: int, steps: int = 1, rate: float = 0.05) -> dict[str, Any]:
    """One process: coefficients, base experts and gradients of the first step, parameters after some steps of SGD."""
    experts = [{k: t.clone().requires_grad_() for k, t in layer.items()} for layer in model[0]]
    base = {k: t.clone().requires_grad_() for k, t in model[1].items()}
    members = [PlainMember(layer) for layer in experts]
    members[0].base = base
    chain = BaseExpertChain(members, config)
    parameters = [t for layer in experts for t in layer.values()] + list(base.values())
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    found: dict[str, Any] = {}
    for step in range(steps):
        optimizer.zero_grad()
        bases = chain.bases()
        sum(own_loss(bases, batch) for batch in range(batches)).div(batches).backward()
        if step == 0:
            found["report"] = chain.report()
            found["bases"] = [{k: t.detach().clone() for k, t in b.items()} for b in bases]
            found["gradients"] = [{k: t.grad for k, t in layer.items()} for layer in experts]
            found["base gradient"] = {k: t.grad for k, t in base.items()}
        optimizer.step()
    found["experts"] = [{k: t.detach() for k, t in layer.items()} for layer in experts]
    found["base"] = {k: t.detach() for k, t in base.items()}
    return found


def placed(tensor: Tensor, mesh: Any, placements: Sequence[Any]) -> Any:
    """A sharded parameter."""
    return torch.nn.Parameter(distribute_tensor(tensor.clone(), mesh, placements))


def whole(value: Any) -> Tensor:
    """In full, whatever it is."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value.clone()


def together(
    rank: int,
    model: Model,
    config: ChainConfig,
    mesh_shape: tuple[int, ...],
    placements: Sequence[Any],
    base_placements: Sequence[Any] | None,
    settings: dict[str, Any],
    steps: int = 1,
    rate: float = 0.05,
) -> dict[str, Any]:
    """The same as `alone` on one rank of a mesh, with one batch for every rank."""
    mesh = init_device_mesh("cpu", mesh_shape)
    experts = [{k: placed(t, mesh, placements) for k, t in layer.items()} for layer in model[0]]
    if base_placements is None:
        base: dict[str, Any] = {k: torch.nn.Parameter(t.clone()) for k, t in model[1].items()}
    else:
        base = {k: placed(t, mesh, base_placements) for k, t in model[1].items()}
    members = [PlainMember(layer) for layer in experts]
    members[0].base = base
    chain = ShardedChain(members, config, DistributedConfig(timeout=30.0, first_base="chain", **settings))
    parameters = [t for layer in experts for t in layer.values()] + list(base.values())
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, foreach=False)
    found: dict[str, Any] = {}
    for step in range(steps):
        optimizer.zero_grad()
        own_loss(list(chain.bases()), rank).backward()
        if step == 0:
            found["report"] = chain.report()
            with torch.no_grad():
                found["bases"] = list(chain.bases())
            found["gradients"] = [
                {k: None if t.grad is None else whole(t.grad) for k, t in layer.items()} for layer in experts
            ]
            found["base gradient"] = {k: whole(t.grad) for k, t in base.items()}
        optimizer.step()
    chain.check()
    found["calls"] = dict(chain.team.traffic.calls)
    found["experts"] = [{k: whole(t) for k, t in layer.items()} for layer in experts]
    found["base"] = {k: whole(t) for k, t in base.items()}
    chain.close()
    return found
