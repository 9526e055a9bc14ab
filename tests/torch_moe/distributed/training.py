"""Trainings on the ranks for the tests of faults: long ones, saved ones, compiled and checkpointed ones."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, MomentumConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, ShardedChain
from tests.torch_moe.distributed.faulty import outcome
from tests.torch_moe.distributed.models import build, ids, loss_of, one_backward, optimizer_of, wrap
from tests.torch_moe.distributed.work import draw, whole


class Merging(nn.Module):
    """Replicated experts in a chain; the output is linear in all base experts, the input multiplies it."""

    def __init__(self) -> None:
        super().__init__()
        experts, base = draw(3, 2, {"weight": (3, 2)})
        self.layers = nn.ParameterList(nn.Parameter(layer["weight"].float()) for layer in experts)
        self.base = nn.Parameter(base["weight"].float())
        members = [PlainMember({"weight": p}) for p in self.layers]
        members[0].base = {"weight": self.base}
        momentum = MomentumConfig(kind="complex", beta=0.3, phase=0.7)
        self.chain = (
            ShardedChain(members, ChainConfig(gamma=0.3, momentum=momentum), DistributedConfig(timeout=30.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        bases = self.chain[0].bases()
        for base, experts in zip(bases, self.layers, strict=True):
            x = x + torch.tanh(x @ base["weight"]) @ experts.mean(0).mT
        return x


def many_merges(rank: int, merges: int) -> dict[str, Any]:
    """Merges, steps, and a hash of all parameters."""
    model = Merging()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(merges):
        wrapped(torch.randn(4, 3, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    values = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    chain = model.chain[0]
    chain.close()
    return {"digest": hashlib.sha256(values).hexdigest(), "solved": chain.solved}


def gathered(rank: int, attached: bool) -> dict[str, Any]:
    """A forward pass that leaves experts gathered, then a chain that has to be computed anew."""
    mesh = init_device_mesh("cpu", (2,))
    model = build()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)
    layers = model.layers()
    chain = ShardedChain(layers, layers[0].chain.config, DistributedConfig(timeout=20.0))
    for position, layer in enumerate(layers):
        layer.join(chain, position)
    chain.refresh()
    before = [record["coefficients"] for record in chain.report()]
    with torch.no_grad():
        model(ids(0, rank))
    chain.alpha_start.zero_()
    chain.invalidate()
    if attached:
        chain.attach(model)
    found = outcome(chain.refresh)
    return {**found, "same": before == [record["coefficients"] for record in chain.report()]}


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer}


def _tokens(step: int, rank: int, size: int) -> Tensor:
    """One rank's share of the tokens of four."""
    share = 4 // size
    return torch.cat([ids(step, k) for k in range(rank * share, (rank + 1) * share)])


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int, size: int) -> dict[str, Any]:
    for step in steps:
        loss_of(model, _tokens(step, rank, size)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: whole(p) for name, p in model.named_parameters()}


def save_and_continue(rank: int, how: str, folder: str) -> dict[str, Any]:
    """Two steps of four ranks, saved; two more."""
    model, chains = wrap(build(), how, init_device_mesh("cpu", (4,)))
    optimizer = optimizer_of(model)
    _steps(model, optimizer, range(2), rank, 4)
    dcp.save(_state(model, optimizer), checkpoint_id=folder)
    start = chains[0].alpha_start.tolist()
    found = _steps(model, optimizer, range(2, 4), rank, 4)
    chains[0].close()
    return {"parameters": found, "start": start}


def load_and_continue(rank: int, how: str, folder: str) -> dict[str, Any]:
    """The other two steps on two ranks."""
    model, chains = wrap(build(), how, init_device_mesh("cpu", (2,)))
    found = _loaded(model, chains[0], folder, rank, 2)
    chains[0].close()
    return found


def load_alone(folder: str) -> dict[str, Any]:
    """The same in one process, with the chain of one process."""
    model = build()
    return _loaded(model, model.layers()[0].chain, folder, 0, 1)


def _loaded(model: nn.Module, chain: Any, folder: str, rank: int, size: int) -> dict[str, Any]:
    optimizer = optimizer_of(model)
    state = _state(model, optimizer)
    dcp.load(state, checkpoint_id=folder, no_dist=size == 1)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    start = chain.alpha_start.tolist()
    return {"parameters": _steps(model, optimizer, range(2, 4), rank, size), "start": start}


def train_with(rank: int, how: str) -> dict[str, Any]:
    """Two steps, compiled, with activation checkpointing, or with two micro-batches."""
    model = build()
    if how == "checkpointing":
        for block in model.blocks:
            inner = block.forward
            block.forward = lambda *given, inner=inner: checkpoint(inner, *given, use_reentrant=False)
    wrapped, chains = wrap(model, "fsdp columns", init_device_mesh("cpu", (2,)))
    optimizer = optimizer_of(model)
    called = torch.compile(wrapped, backend="eager") if how == "compile" else wrapped
    micro = 2 if "accumulation" in how else 1
    for step in range(2):
        for k in range(micro):
            one_backward(called, chains, ids(step, rank, k), micro, k == micro - 1 or how.endswith("no_sync"))
        optimizer.step()
        optimizer.zero_grad()
    parameters = {name: whole(p) for name, p in model.named_parameters()}
    chains[0].close()
    return {"parameters": parameters, "solved": chains[0].solved}


def group_of_one(rank: int, device: str) -> dict[str, float]:
    """A chain in a group of one process, and the chain without a group: largest difference of coefficients."""
    experts, base = draw(5)
    members = [PlainMember({k: nn.Parameter(t.float().to(device)) for k, t in layer.items()}) for layer in experts]
    members[0].base = {k: nn.Parameter(t.float().to(device)) for k, t in base.items()}
    config = ChainConfig(gamma=0.3)
    chain, alone = ShardedChain(members, config, DistributedConfig(timeout=30.0)), BaseExpertChain(members, config)
    sum(t.sum() for b in list(chain.bases())[1:] for t in b.values()).backward()
    assert all(t.grad is not None for t in members[0].base.values())
    alone.bases()
    pairs = zip(chain.report(), alone.report(), strict=True)
    error = max(abs(x - y) for a, b in pairs for x, y in zip(a["coefficients"], b["coefficients"], strict=True))
    grams = [d.gram_error for d in (*chain._run.grams.values(), *alone._run.grams.values())]
    return {"error": error, "bound": 10 * max(grams)}
