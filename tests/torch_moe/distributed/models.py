"""A small language model with linked layers, trained alone or under a wrapper on the ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from nashsolve.integrations.torch_moe import MoE, MoEConfig, link
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain, shard_chains
from nashsolve.integrations.torch_moe.small_transformer import SmallTransformer
from tests.torch_moe.distributed.work import whole

VOCAB, LENGTH = 11, 5
CHAIN = {"gamma": 0.4, "bargain": {"warm_start": True}, "momentum": {"kind": "complex", "beta": 0.4, "phase": 0.5}}


def build(n_experts: int = 4, layers: int = 3) -> SmallTransformer:
    """In double precision, its layers linked; the same on every rank."""
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_hidden": 8, "n_experts": n_experts, "bias": False}
    router = {"name": "linear", "options": {"level": "sequence"}}
    config = MoEConfig.preset("namex_full", **sizes, merge={"eta": 0.5}, router=router, chain=CHAIN)
    model = SmallTransformer(VOCAB, 8, layers, 2, lambda: MoE(config)).double()
    link(model)
    return model


def ids(step: int, rank: int, micro: int = 0) -> Tensor:
    """One rank's tokens: two sequences."""
    generator = torch.Generator().manual_seed(1000 * step + 10 * rank + micro)
    return torch.randint(VOCAB, (2, LENGTH), generator=generator)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def train_alone(ranks: int, steps: int, n_experts: int = 4, first: int = 0, micro: int = 1) -> dict[str, Tensor]:
    """Parameters after some steps on all ranks' tokens."""
    model = build(n_experts)
    optimizer = optimizer_of(model)
    for step in range(first, first + steps):
        for rank in range(ranks):
            for k in range(micro):
                (loss_of(model, ids(step, rank, k)) / ranks / micro).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def wrap(model: SmallTransformer, how: str, mesh: Any, **settings: Any) -> tuple[nn.Module, list[ShardedChain]]:
    """Under DDP or FSDP2, with sharded chains."""
    given = DistributedConfig(timeout=30.0, **settings)
    if how == "ddp":
        wrapped: nn.Module = DistributedDataParallel(model)
        return wrapped, shard_chains(model, given)

    def columns(parameter: nn.Parameter) -> Shard | None:
        return Shard(1) if parameter.ndim == 3 else None

    placing = columns if how.endswith("columns") else None
    for block in model.blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=placing)
    fully_shard(model, mesh=mesh)
    return model, shard_chains(model, given)


def train_together(
    rank: int, how: str, shape: tuple[int, ...], steps: int, n_experts: int = 4, micro: int = 1, **settings: Any
) -> dict[str, Any]:
    """The same on one rank of a mesh, with that rank's tokens only."""
    names = ("replica", "shard") if len(shape) == 2 else None
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    model = build(n_experts)
    wrapped, chains = wrap(model, how, mesh, **settings)
    optimizer = optimizer_of(model)
    for step in range(steps):
        for k in range(micro):
            last = k == micro - 1
            if last or how != "ddp":
                one_backward(wrapped, chains, ids(step, rank, k), micro, last)
            else:
                with wrapped.no_sync():
                    one_backward(wrapped, chains, ids(step, rank, k), micro, last)
        optimizer.step()
        optimizer.zero_grad()
    found = {
        "parameters": {name: whole(p) for name, p in model.named_parameters()},
        "solved": [chain.solved for chain in chains],
        "report": chains[0].report(),
    }
    for chain in chains:
        chain.check()
        chain.close()
    return found


def one_backward(model: nn.Module, chains: list[ShardedChain], tokens: Tensor, micro: int, last: bool) -> None:
    """One micro-batch; chains add their gradients in the last."""
    loss = loss_of(model, tokens) / micro
    if last:
        loss.backward()
    else:
        with chains[0].no_sync():
            loss.backward()
