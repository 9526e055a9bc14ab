"""DDP, FSDP2, HSDP, tensor parallel and expert parallel training, on real ranks, against one process."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard

from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain
from tests.torch_moe.distributed.compare import CLOSE, assert_close
from tests.torch_moe.distributed.expert_parallel import check_expert_parallel
from tests.torch_moe.distributed.models import train_alone, train_together
from tests.torch_moe.distributed.ranks import Ranks
from tests.torch_moe.distributed.work import draw, placed, whole


@pytest.mark.parametrize(("how", "micro"), [("ddp", 1), ("ddp", 2), ("fsdp", 1), ("fsdp columns", 1)])
def test_two_ranks_train_as_one(two: Ranks, how: str, micro: int) -> None:
    """AdamW on a language model; once with two micro-batches a step. The chain is computed once a step."""
    found = two.run(train_together, how, (2,), 3, 4, micro)
    wanted = train_alone(2, 3, micro=micro)
    for rank in found:
        assert_close(rank["parameters"], wanted)
        assert rank["solved"] == [3]
    assert found[0]["report"][0]["alpha"] == found[1]["report"][0]["alpha"]


@pytest.mark.parametrize(
    ("how", "shape", "experts"),
    [("fsdp columns", (2, 2), 4), ("fsdp", (2, 2), 3)],
    ids=["hybrid", "hybrid-experts"],
)
def test_four_ranks_train_as_one(four: Ranks, how: str, shape: tuple[int, ...], experts: int) -> None:
    wanted = train_alone(4, 2, experts)
    for rank in four.run(train_together, how, shape, 2, experts):
        assert_close(rank["parameters"], wanted)


class _Summed(torch.autograd.Function):
    """Partial outputs of tensor parallel ranks, added up; each rank's part gets the whole gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Spread(torch.autograd.Function):
    """The input of all slices: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def merged(bases: Any, layers: Any, x: Tensor, spread: Any, total: Any) -> Tensor:
    """Two-matrix experts, merged as half base expert and half mean, one layer after another."""
    for base, experts in zip(bases, layers, strict=True):
        up, down = (0.5 * base[k] + 0.5 * experts[k].mean(0) for k in ("up", "down"))
        x = x + total(torch.relu(spread(x) @ up.mT) @ down.mT)
    return x


TP_SHAPES = {"up": (7, 4), "down": (4, 7)}
"""An odd width, so that the ranks' slices are uneven."""


def tensor_parallel(rank: int, model: Any, config: ChainConfig) -> dict[str, Any]:
    """Slices of the inner width on every rank, base experts too; both ranks see the same batch."""
    mesh = init_device_mesh("cpu", (2,))
    along = {"up": Shard(1), "down": Shard(2)}
    layers = [{k: placed(t, mesh, [along[k]]) for k, t in layer.items()} for layer in model[0]]
    members = [PlainMember(layer) for layer in layers]
    members[0].base = {k: torch.nn.Parameter(t.clone()) for k, t in model[1].items()}
    settings = DistributedConfig(timeout=30.0, bases="local")
    chain = ShardedChain(members, config, settings)
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    first = {k: t.chunk(2, dim=0 if k == "up" else 1)[rank] for k, t in members[0].base.items()}
    local = [{k: t.to_local() for k, t in layer.items()} for layer in layers]
    merged([first, *list(chain.bases())[1:]], local, x, _Spread.apply, _Summed.apply).square().sum().backward()
    found = {
        "gradients": [{k: whole(t.grad) for k, t in layer.items()} for layer in layers],
        "calls": dict(chain.team.traffic.calls),
        "base": {k: t.grad for k, t in members[0].base.items()},
    }
    chain.close()
    return found


def test_tensor_parallel_layers_use_local_bases(two: Ranks) -> None:
    config = ChainConfig(gamma=0.3)
    model = draw(3, 3, TP_SHAPES)
    found = two.run(tensor_parallel, model, config)
    layers = [{k: t.clone().requires_grad_() for k, t in layer.items()} for layer in model[0]]
    members = [PlainMember(layer) for layer in layers]
    members[0].base = {k: t.clone().requires_grad_() for k, t in model[1].items()}
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bases = BaseExpertChain(members, config).bases()
    merged(bases, layers, x, lambda t: t, lambda t: t).square().sum().backward()
    for rank in found:
        for mine, its in zip(rank["gradients"], layers, strict=True):
            assert_close(mine, {k: t.grad for k, t in its.items()})
        # One all_reduce for each of the two solves, and one gather of the first base expert's gradient.
        assert {k: v for k, v in rank["calls"].items() if "object" not in k} == {"all_reduce": 2, "all_gather": 1}
    # The first layer's own use of its base expert has a gradient of this rank's slice; the chain's is whole.
    own = [rank["base"]["up"] for rank in found]
    wanted = members[0].base["up"].grad
    torch.testing.assert_close(own[0][:4], wanted[:4], rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(own[1][4:], wanted[4:], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("split", [[2, 3], [4, 1]], ids=["2-3", "4-1"])
def test_expert_parallel_with_plain_tensors(two: Ranks, split: list[int]) -> None:
    """Partitions that no DTensor has."""
    check_expert_parallel(two, split)
