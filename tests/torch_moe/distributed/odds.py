"""What ranks do in the smaller tests: refusals, settings, counts of collectives, a transformers model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard

from nashsolve.core.errors import NashSolveError
from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, PlainMember
from nashsolve.integrations.torch_moe.distributed import DistributedConfig, Part, ShardedChain
from tests.torch_moe.distributed.faulty import PLAIN, make, outcome
from tests.torch_moe.distributed.models import build, ids, loss_of, wrap
from tests.torch_moe.distributed.work import draw, own_loss, placed, whole


def counted(rank: int, mesh_shape: tuple[int, ...], placements: list[Any], settings: dict[str, Any]) -> Any:
    """Collectives of one forward and backward pass, and bytes sent."""
    mesh = init_device_mesh("cpu", mesh_shape)
    experts, base = draw(8)
    members = [PlainMember({k: placed(t, mesh, placements) for k, t in layer.items()}) for layer in experts]
    members[0].base = {k: nn.Parameter(t.clone()) for k, t in base.items()}
    chain = ShardedChain(members, PLAIN, DistributedConfig(timeout=20.0, **settings))
    chain.team.traffic.clear()
    own_loss([{k: t.double() for k, t in b.items()} for b in list(chain.bases())[1:]], rank).backward()
    found = dict(chain.team.traffic.calls), dict(chain.team.traffic.bytes)
    chain.close()
    return found


def refused(rank: int, what: str) -> dict[str, Any]:
    """Placements and settings that do not go together."""
    mesh = init_device_mesh("cpu", (2,))
    experts, base = draw(4)
    placement = {"local": Shard(0), "alpha": Shard(0), "partial": Partial()}.get(what, Shard(1))
    layers: list[Any] = [{k: _placed(t, mesh, placement) for k, t in layer.items()} for layer in experts]
    if what == "mixed layers":
        layers[2] = {k: placed(t, mesh, [Shard(0)]) for k, t in experts[2].items()}
    if what == "twice":
        layers = [{k: Part(t[:3], 0, 4) for k, t in layer.items()} for layer in experts]
    members: list[Any] = [PlainMember(layer) for layer in layers]
    members[0].base = {"gate_up_proj": base["gate_up_proj"]} if what == "base" else base
    if what == "curvature":
        members[1].chain_curvature = lambda: object()
    config = ChainConfig(gamma=0.3, detach_alpha=what != "alpha")
    settings = DistributedConfig(timeout=20.0, bases="local" if what == "local" else "full")
    return outcome(lambda: ShardedChain(members, config, settings).refresh())


def _placed(tensor: torch.Tensor, mesh: Any, placement: Any) -> Any:
    if not placement.is_partial():
        return placed(tensor, mesh, [placement])
    return DTensor.from_local(tensor, mesh, [placement])


def divided(rank: int, factor: float | None) -> dict[str, torch.Tensor]:
    """Gradients of a model whose blocks FSDP2 divides by a factor of the user's, and the chain with them."""
    model, chains = wrap(build(), "fsdp", init_device_mesh("cpu", (2,)), divide=factor)
    if factor is not None:
        for block in model.blocks:
            block.set_gradient_divide_factor(factor)
    loss_of(model, ids(0, rank)).backward()
    found = {name: whole(p.grad) for name, p in model.named_parameters() if name.startswith("blocks")}
    chains[0].close()
    return found


def half_precision(rank: int) -> dict[str, Any]:
    """Base experts that travel in bfloat16: how far they and the gradients are from those that do not."""
    found = {}
    for dtype in ("chain", "bfloat16"):
        chain, layers = make(dtype=torch.float32, base_dtype=dtype)
        chain.team.traffic.clear()
        bases = list(chain.bases())[1:]
        sum(t.float().square().sum() for b in bases for t in b.values()).backward()
        found[dtype] = {
            "kinds": {t.dtype for b in bases for t in b.values()},
            "bases": torch.cat([t.detach().float().flatten() for b in bases for t in b.values()]),
            "gradients": torch.cat([whole(t.grad).flatten() for t in layers[0].values()]),
            "bytes": chain.team.traffic.bytes["all_gather"],
        }
        chain.close()
    return found


def pending(rank: int) -> tuple[str, bool]:
    """A step taken while a micro-batch waits; and a pass in evaluation, which keeps whole base experts."""
    chain, layers = make()
    with chain.no_sync():
        own_loss(list(chain.bases())[1:], rank).backward()
    assert all(t.grad is None for t in layers[0].values())
    with torch.no_grad():
        for t in layers[0].values():
            t.mul_(1.1)
    try:
        chain.refresh()
        text = ""
    except NashSolveError as error:
        text = str(error)
    chain, _ = make()
    chain.eval()
    with torch.no_grad():
        same = chain.bases()[1]["down_proj"] is chain.bases()[1]["down_proj"]
    return text, same


def fused_steps(rank: int) -> list[int]:
    """How often a chain was computed after each step of a fused optimizer."""
    chain, layers = make(dtype=torch.float32)
    optimizer = torch.optim.AdamW([t for layer in layers for t in layer.values()], fused=True)
    found = []
    for _ in range(3):
        own_loss([{k: t.double() for k, t in b.items()} for b in list(chain.bases())[1:]], rank).backward()
        optimizer.step()
        found.append(chain.solved)
    chain.close()
    return found


def in_other_modes(rank: int) -> list[Any]:
    """Coefficients under autocast and in inference mode, whose base experts train afterwards; copies are refused."""
    found = []
    for mode in (torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode()):
        chain, layers = make(dtype=torch.float32)
        with mode:
            chain.bases()
        found.append([record["coefficients"] for record in chain.report()])
        own_loss([{k: t.double() for k, t in b.items()} for b in list(chain.bases())[1:]], rank).backward()
        assert chain.solved == 1 and all(t.grad is not None for t in layers[0].values())
        found.append(outcome(lambda chain=chain: copy.deepcopy(chain))["text"])
        chain.close()
    return found


def explicit(rank: int) -> bool:
    """With automatic=False nothing happens until `backward` is called, and then the same."""
    gradients = []
    for automatic in (True, False):
        chain, layers = make(automatic=automatic)
        own_loss(list(chain.bases())[1:], rank).backward()
        if not automatic:
            assert all(t.grad is None for layer in layers for t in layer.values())
            chain.backward()
        gradients.append([whole(t.grad) for t in layers[0].values()])
        chain.close()
    return all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def transformers_model(rank: int, placement: Any) -> dict[str, Any]:
    """A chain over the fused experts of a Qwen2-MoE model under FSDP2, and over those of the whole model."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=17, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, shared_expert_intermediate_size=8,
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = Qwen2MoeForCausalLM(config)
    base = {name: torch.randn(p.shape[1:]) * 0.02 for name, p in model.model.layers[0].mlp.experts.named_parameters()}

    def members() -> list[PlainMember]:
        found = [PlainMember(layer.mlp.experts) for layer in model.model.layers]
        found[0].base = base
        return found

    wanted = BaseExpertChain(members(), PLAIN)
    wanted.bases()
    mesh = init_device_mesh("cpu", (2,))

    def placing(parameter: nn.Parameter) -> Any:
        return placement if parameter.ndim == 3 else None

    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, shard_placement_fn=placing)
    fully_shard(model, mesh=mesh)
    chain = ShardedChain(members(), PLAIN, DistributedConfig(timeout=20.0))
    chain.attach(model)
    tokens = torch.arange(6)[None] + rank
    loss = model(input_ids=tokens, labels=tokens).loss + sum(t.square().sum() for t in chain.bases()[2].values())
    loss.backward()
    found = {
        "mine": [record["coefficients"] for record in chain.report()],
        "wanted": [record["coefficients"] for record in wanted.report()],
        "gradient": float(whole(model.model.layers[0].mlp.experts.gate_up_proj.grad).abs().sum()),
        "solved": chain.solved,
    }
    chain.close()
    return found
