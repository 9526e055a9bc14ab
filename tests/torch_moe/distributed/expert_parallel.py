"""Expert parallelism with plain tensors: whole experts on every rank, as many as a list says."""

from __future__ import annotations

from typing import Any

import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, Part, ShardedChain
from tests.torch_moe.distributed.compare import CLOSE, assert_close
from tests.torch_moe.distributed.ranks import Ranks
from tests.torch_moe.distributed.work import alone, draw, own_loss


def expert_parallel(
    rank: int, model: Any, config: ChainConfig, split: list[int], settings: dict[str, Any], ranks: Any = None
) -> Any:
    """Whole experts on every rank as plain tensors, as many as `split` says."""
    first, count, n = sum(split[:rank]), split[rank], sum(split)
    own = [{k: torch.nn.Parameter(t[first : first + count].clone()) for k, t in layer.items()} for layer in model[0]]
    members = [PlainMember({k: Part(t, first, n) for k, t in layer.items()}) for layer in own]
    members[0].base = {k: torch.nn.Parameter(t.clone()) for k, t in model[1].items()}
    chain = ShardedChain(members, config, DistributedConfig(timeout=30.0, first_base="chain", **settings), ranks)
    own_loss(list(chain.bases()), rank).backward()
    found = {
        "report": chain.report(),
        "gradients": [{k: t.grad for k, t in layer.items()} for layer in own],
        "base gradient": {k: t.grad for k, t in members[0].base.items()},
    }
    chain.close()
    return found


def stages(rank: int, models: Any, config: ChainConfig, split: list[int]) -> Any:
    """Two pipeline stages of two ranks, each with a chain of its own."""
    stage = rank // 2
    ranks = [2 * stage, 2 * stage + 1]
    found = expert_parallel(rank % 2, models[stage], config, split, {}, ranks)
    try:
        ShardedChain([], config, ranks=[(rank + 1) % 4])
    except InvalidProblem as error:
        return {**found, "refused": str(error)}
    raise AssertionError("a rank made a chain that others hold")


def check_expert_parallel(ranks: Ranks, split: list[int]) -> None:
    """Whole experts as plain tensors against one process, and gradients with a divisor of their own for experts."""
    config = ChainConfig(gamma=0.3)
    model = draw(sum(split))
    wanted = alone(model, config, 2)
    found = ranks.run(expert_parallel, model, config, split, {"exchange_bytes": 512})
    halved = ranks.run(expert_parallel, model, config, split, {"expert_divide": 4.0})
    for k, name in [(k, name) for k, layer in enumerate(model[0][:-1]) for name in layer]:
        mine = torch.cat([rank["gradients"][k][name] for rank in found])
        torch.testing.assert_close(mine, wanted["gradients"][k][name], rtol=CLOSE, atol=CLOSE)
        less = torch.cat([rank["gradients"][k][name] for rank in halved])
        torch.testing.assert_close(2 * less, mine, rtol=CLOSE, atol=CLOSE)
    for both in (found, halved):
        for rank in both:
            assert_close(rank["base gradient"], wanted["base gradient"])
            assert rank["report"][0]["alpha"] == both[0]["report"][0]["alpha"]
