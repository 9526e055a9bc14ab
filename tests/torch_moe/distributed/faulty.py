"""What ranks do in the tests of faults: a chain over shards of either kind, and things that go wrong."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard

from nashsolve.core.errors import NashSolveError
from nashsolve.integrations.torch_moe import BargainConfig, ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import (
    DistributedConfig,
    IndependentBargains,
    ShardedChain,
    shard_gram,
    solving,
)
from tests.torch_moe.distributed.work import draw, own_loss, placed

PLAIN = ChainConfig(gamma=0.3)


def make(
    config: ChainConfig = PLAIN, dim: int = 1, n: int = 4, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[ShardedChain, list[dict[str, Any]]]:
    """A chain over shards along one axis, and its experts."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    experts, base = draw(n)
    layers = [{k: placed(t.to(dtype), mesh, [Shard(dim)]) for k, t in layer.items()} for layer in experts]
    members = [PlainMember(layer) for layer in layers]
    members[0].base = {k: nn.Parameter(t.to(dtype)) for k, t in base.items()}
    return ShardedChain(members, config, DistributedConfig(**{"timeout": 20.0, **settings})), layers


def outcome(act: Any) -> dict[str, Any]:
    """What a call raised, and how long it took."""
    begin = time.perf_counter()
    try:
        act()
    except NashSolveError as error:
        ranks = getattr(error, "ranks", ())
        return {
            "kind": type(error).__name__,
            "text": str(error),
            "ranks": ranks,
            "seconds": time.perf_counter() - begin,
        }
    return {"kind": "none", "text": "", "ranks": (), "seconds": time.perf_counter() - begin}


def raises_before(rank: int, where: str) -> dict[str, Any]:
    """Rank 1 raises in the training loop, in its own arithmetic, or where it reads its experts."""
    chain, layers = make(dim=0 if where == "exchange" else 1)
    if where == "loop":
        try:
            with chain.team.guard():
                if rank == 1:
                    raise OSError("the data set is gone")
                return outcome(chain.refresh)
        except OSError:
            time.sleep(2)  # the process lives on: nobody hears it through a broken connection
            return {"kind": "OSError", "ranks": (1,), "seconds": 0.0, "text": ""}
    if where == "reading":
        if rank == 1:
            layers[1]["down_proj"] = nn.Parameter(torch.zeros(4, 5, 4))
        return outcome(chain.refresh)
    if rank == 1:
        with mock.patch.object(shard_gram, "gram_of_differences", side_effect=MemoryError("no room")):
            return outcome(chain.refresh)
    return outcome(chain.refresh)


def killed(rank: int, dim: int) -> dict[str, Any]:
    chain, _ = make(dim=dim)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome(chain.refresh)


def late(rank: int, timeout: float, delay: float) -> dict[str, Any]:
    chain, _ = make(timeout=timeout)
    if rank == 1:
        time.sleep(delay)
    return outcome(chain.refresh)


def not_a_number(rank: int, dim: int, entry: float) -> dict[str, Any]:
    """Rank 1's shard of layer 1 holds one bad entry; later it is mended, and the chain goes on."""
    chain, layers = make(dim=dim)
    chain.refresh()
    before = [record["alpha"] for record in chain.report()]
    slot = layers[1]["gate_up_proj"]
    kept = slot.to_local().detach().clone()
    with torch.no_grad():
        if rank == 1:
            slot.to_local().view(-1)[3] = entry
        torch.autograd.graph.increment_version(slot)
    first = outcome(chain.refresh)
    with torch.no_grad():
        slot.to_local().copy_(kept)
        torch.autograd.graph.increment_version(slot)
    again = outcome(chain.refresh)
    chain.check()
    return {**first, "again": again["kind"], "same": before == [record["alpha"] for record in chain.report()]}


def different(rank: int, what: str) -> dict[str, Any]:
    """Rank 1 is given something else."""
    experts, base = draw(3 if what == "N" and rank == 1 else 4)
    if what == "shape" and rank == 1:
        experts = [{**layer, "down_proj": layer["down_proj"][:, :, :2]} for layer in experts]
        base = {**base, "down_proj": base["down_proj"][:, :2]}
    if what == "order" and rank == 1:
        experts = [dict(reversed(layer.items())) for layer in experts]
    if what == "layers" and rank == 1:
        experts = experts[:3]
    members = [PlainMember(layer) for layer in experts]
    members[0].base = base
    config = ChainConfig(gamma=0.4 if what == "settings" and rank == 1 else 0.3)
    settings = DistributedConfig(timeout=20.0, divide=3.0 if what == "divisor" and rank == 1 else None)
    return outcome(lambda: ShardedChain(members, config, settings))


def different_alpha(rank: int, what: str) -> dict[str, Any]:
    """Rank 1's solver is off by one bit, or its warm start or first base expert is another one."""
    chain, _ = make(ChainConfig(gamma=0.3, bargain=BargainConfig(warm_start=True)))
    if what == "base":
        chain.refresh()
        with torch.no_grad():
            chain.own.now()["gate_up_proj"].add_(1e-9 * rank)
        return outcome(chain.refresh)
    if what == "start":
        chain.refresh()
        if rank == 1:
            chain.alpha_start.mul_(1.5)
        chain.invalidate()
        return outcome(chain.refresh)
    true = solving.bargain_over_base

    def off(*given: Any) -> Any:
        found = true(*given)
        found.coefficients[0] *= 1 + 2.0**-52
        return found

    if rank == 1:
        with mock.patch.object(solving, "bargain_over_base", off):
            return outcome(chain.refresh)
    return outcome(chain.refresh)


def same_alpha(rank: int, dim: int, dtype: torch.dtype, solve: str) -> list[Any]:
    """Coefficients of five states of the parameters."""
    chain, layers = make(dim=dim, dtype=dtype, solve=solve)
    optimizer = torch.optim.SGD([t for layer in layers for t in layer.values()], lr=0.1)
    found = []
    for _ in range(5):
        own_loss([{k: t.double() for k, t in base.items()} for base in chain.bases()], rank).backward()
        found.append([record["coefficients"] for record in chain.report()])
        optimizer.step()
        optimizer.zero_grad()
    chain.check()
    chain.close()
    return found


def untouched(rank: int) -> None:
    """Computing and asking changes no parameter, version, gradient or state; only `backward` adds gradients."""
    chain, layers = make(dim=rank * 0)
    parameters = [t for layer in layers for t in layer.values()]
    optimizer = torch.optim.AdamW(parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    values = [p.to_local().clone() for p in parameters]
    versions = [(p._version, p.to_local()._version) for p in parameters]
    gradients = [p.grad for p in parameters]
    state = {k: {n: _copy(t) for n, t in s.items()} for k, s in enumerate(optimizer.state.values())}
    list(chain.bases())
    assert versions == [(p._version, p.to_local()._version) for p in parameters]
    assert all(torch.equal(p.to_local(), v) for p, v in zip(parameters, values, strict=True))
    assert all(p.grad is g and not g.to_local().any() for p, g in zip(parameters, gradients, strict=True))
    after = list(optimizer.state.values())
    assert all(torch.equal(_copy(after[k][n]), t) for k, s in state.items() for n, t in s.items())
    own_loss(list(chain.bases()), rank).backward()
    assert any(p.grad.to_local().any() for p in parameters[: -len(layers[-1])])
    assert versions == [(p._version, p.to_local()._version) for p in parameters]
    chain.close()


def _copy(value: Tensor) -> Tensor:
    return value.to_local().clone() if hasattr(value, "to_local") else value.clone()


def gram_within_bound(rank: int, dim: int, dtype: torch.dtype) -> list[Any]:
    """Grams and their stated errors."""
    chain, _ = make(dim=dim, dtype=dtype, n=6)
    chain.refresh()
    found = [(d.gram, d.gram_error) for _, d in sorted(chain._run.grams.items())]
    chain.close()
    return found


def independent(rank: int, dim: int) -> dict[str, Any]:
    """Three layers with base experts of their own: one all_reduce."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    experts, base = draw(4)
    members = [
        PlainMember(
            {k: placed(t, mesh, [Shard(dim)]) for k, t in layer.items()}, {k: (j + 1) * t for k, t in base.items()}
        )
        for j, layer in enumerate(experts)
    ]
    bargains = IndependentBargains(members, BargainConfig(), DistributedConfig(timeout=20.0))
    bargains.team.traffic.clear()
    found = bargains.solve()
    calls = dict(bargains.team.traffic.calls)
    bargains.team.close()
    return {"coefficients": [a.coefficients for a in found], "calls": calls}
