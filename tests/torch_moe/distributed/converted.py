"""A converted transformers model, alone and under FSDP2 on the ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from nashsolve.integrations.torch_moe.distributed import DistributedConfig, shard_chains
from tests.torch_moe.distributed.work import whole


def build() -> Any:
    """Three layers of Qwen2-MoE in double precision, whose experts merge segment by segment along a chain."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    from nashsolve.integrations.transformers import convert

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8}
    sizes |= {"shared_expert_intermediate_size": 16, "num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2}
    config = Qwen2MoeConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    model = Qwen2MoeForCausalLM(config)
    chain = {"gamma": 0.5, "momentum": {"kind": "real", "beta": 0.3}}
    merge = {"rule": "camex", "eta": 0.5}
    convert(model, show=False, merge=merge, causal_level="segment", segment_length=4, chain=chain)
    return model.double()  # with what convert has added: FSDP2 wants one dtype


def _loss(model: Any, step: int, rank: int) -> Tensor:
    ids = torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(10 * step + rank))
    found: Tensor = model(input_ids=ids, labels=ids).loss
    return found


def train_alone(steps: int) -> dict[str, Tensor]:
    """On the tokens of two ranks."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        (0.5 * (_loss(model, step, 0) + _loss(model, step, 1))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train_together(rank: int, how: str, steps: int) -> dict[str, Any]:
    """On one rank's tokens, experts in shards of either kind or whole."""
    model = build()
    called: nn.Module = model
    if how == "ddp":
        called = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        placing = (lambda p: Shard(1) if p.ndim == 3 else None) if how == "columns" else None
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh, shard_placement_fn=placing)
        fully_shard(model, mesh=mesh)
    (chain,) = shard_chains(model, DistributedConfig(timeout=30.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        _loss(called, step, rank).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {"parameters": {name: whole(p) for name, p in model.named_parameters()}, "solved": chain.solved}
    chain.check()
    chain.close()
    return found
