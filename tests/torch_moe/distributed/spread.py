"""Models that transformers has loaded with expert or tensor parallelism, converted on every rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nashsolve.integrations.torch_moe import ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain, shard_chains
from nashsolve.integrations.transformers import convert, from_pretrained
from tests.torch_moe.distributed.work import whole

CHAIN = {"gamma": 0.5, "momentum": {"kind": "real", "beta": 0.3}}
MERGING: dict[str, Any] = {
    "merge": {"rule": "camex", "eta": 0.5},
    "causal_level": "segment",
    "segment_length": 4,
    "chain": CHAIN,
}
START = {"base": {"init": "copy", "index": 1}, "first": "zero"}


def save(folder: Path) -> None:
    """A small Qwen2-MoE in a folder."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8}
    sizes |= {"shared_expert_intermediate_size": 16, "num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2}
    Qwen2MoeForCausalLM(Qwen2MoeConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).save_pretrained(folder)


def load(folder: Path, **sizes: int) -> Any:
    """The model in double precision, in whole or sharded by transformers itself."""
    from transformers import Qwen2MoeForCausalLM
    from transformers.distributed import DistributedConfig as Plan

    options: dict[str, Any] = {"distributed_config": Plan(**sizes)} if sizes else {}
    model = Qwen2MoeForCausalLM.from_pretrained(folder, dtype=torch.float64, **options)
    model.set_experts_implementation("eager")  # grouped products know no float64
    return model


def ids(step: int) -> Tensor:
    return torch.randint(1, 40, (2, 9), generator=torch.Generator().manual_seed(step))


def train(model: Any, steps: int) -> dict[str, Any]:
    """Losses and final parameters, and logits of an evaluation."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        loss = model(input_ids=ids(step), labels=ids(step)).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        logits = model.eval()(input_ids=ids(100)).logits
    return {"losses": losses, "logits": logits, "parameters": {n: whole(p) for n, p in model.named_parameters()}}


def alone(folder: Path, steps: int, **changes: Any) -> dict[str, Any]:
    """In one process."""
    model = load(folder)
    convert(model, show=False, **(MERGING | START | changes))
    return train(model, steps)


def together(rank: int, folder: Path, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """On one rank of two that share a batch and hold half of the experts each; saved by all of them at the end."""
    model = load(folder, tp_size=2, ep_size=2)
    plain = model(input_ids=ids(0)).logits
    convert(model, show=False)
    neutral = torch.equal(model(input_ids=ids(0)).logits, plain)
    model = load(folder, tp_size=2, ep_size=2)
    torch.manual_seed(rank)  # ranks that draw what others do not
    merging = convert(model, show=False, **(MERGING | START | changes))
    chains = shard_chains(model, DistributedConfig(timeout=30.0)) if "chain" not in changes else []
    held = model.model.layers[0].mlp.experts.down_proj.to_local().shape[0]
    found = {"neutral": neutral, "held": held, "ways": {way for _, way in merging.places}, **train(model, steps)}
    for chain in chains:
        chain.check()
        chain.close()
    model.save_pretrained(folder / "trained")
    dist.barrier()
    found["again"] = from_pretrained(folder / "trained", dtype=torch.float64)(input_ids=ids(100)).logits.detach()
    return found


def unready(rank: int, folder: Path) -> tuple[str, str]:
    """What is said of a chain that has not heard of the ranks, and of shards that are not in one piece."""
    model = load(folder, tp_size=2, ep_size=2)
    convert(model, show=False, **(MERGING | START))
    said = [_said(lambda: model(input_ids=ids(0)))]
    cut = load(folder, tp_size=2).model.layers[0].mlp.experts
    member = PlainMember(cut, {"gate_up_proj": torch.zeros(16, 16), "down_proj": torch.zeros(16, 8)})
    said.append(_said(lambda: ShardedChain([member, member], ChainConfig(), DistributedConfig(timeout=30.0))))
    return said[0], said[1]


def refused(rank: int, folder: Path, sizes: dict[str, int], changes: dict[str, Any]) -> str:
    """What is said of a model that cannot be converted."""
    return _said(lambda: convert(load(folder, **sizes), show=False, **(MERGING | START | changes)))


def _said(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
