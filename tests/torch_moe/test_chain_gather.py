"""Gathered gradients: those of plain backward passes, one pass of the chain for all of them, and what is refused."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")
pytest.importorskip("pydantic", reason="the extra 'moe' is not installed")

import torch
from torch import nn

from nashsolve.core.errors import InvalidProblem, InvalidType, NashSolveError
from nashsolve.integrations.torch_moe import (
    BargainConfig,
    BaseExpertChain,
    ChainClock,
    ChainConfig,
    MoE,
    MoEConfig,
    MomentumConfig,
    PlainMember,
    gathered,
    link,
)
from nashsolve.integrations.torch_moe.chain_adjoint import Adjoint
from tests.asserts import assert_near
from tests.torch_moe.build import CERTIFIED, TIGHT, random_chain, scalar_of

CONFIGS = {
    "plain": ChainConfig(gamma=0.4),
    "uniform": ChainConfig(bargain="uniform", gamma=0.3),
    "held": ChainConfig(gamma=0.4, interval="once"),
    "by linear layer": ChainConfig(gamma=0.4, granularity="linear"),
    "complex": ChainConfig(gamma=0.2, momentum=MomentumConfig(kind="complex", beta=0.9, phase=math.pi / 6)),
    "heavy ball": ChainConfig(gamma=0.2, momentum=MomentumConfig(kind="heavy_ball", beta=0.5)),
    "through alpha": ChainConfig(gamma=0.3, detach_alpha=False, bargain=BargainConfig(scale="unit_norm")),
    "cut": ChainConfig(gamma=0.4, detach_chain=True),
}


def leaves(experts: Any, base: Any) -> list[torch.Tensor]:
    return [*(t for e in experts for t in e.values()), *base.values()]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("passes", [1, 3])
def test_gradients_are_those_of_plain_backward_passes(name: str, passes: int) -> None:
    found = []
    for context in (nullcontext, gathered):
        chain, experts, base = random_chain(CONFIGS[name])
        parameters = leaves(experts, base)
        parameters[0].grad = torch.ones_like(parameters[0])  # of something else, before
        with context(chain):
            for seed in range(passes):
                scalar_of(chain.bases(), seed).backward()
        found.append([p.grad for p in parameters])
    for plain, once in zip(*found, strict=True):
        assert (plain is None) == (once is None)
        if plain is not None:
            assert_near(once, plain, 0, 10 * TIGHT)


def layers(curved: bool = False, **settings: Any) -> nn.ModuleList:
    torch.manual_seed(0)
    extra = {"curvature": {"kind": "kronecker", "rank": 2, "in_chain": True}} if curved else {}
    router = {"name": "linear", "options": {"level": "sequence"}}
    sizes = {"d_model": 8, "d_hidden": 12, "n_experts": 3, "bias": True}
    config = MoEConfig.preset("namex_full", **sizes, merge={"eta": 0.5}, router=router, **extra, **settings)
    return nn.ModuleList(MoE(config) for _ in range(4)).double()


def loss(model: nn.ModuleList, seed: int) -> torch.Tensor:
    x = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for layer in model:
        x = x + layer(x)
    return x.square().mean()


@pytest.mark.parametrize("kind", ["plain", "curved", "shared", "frozen"])
def test_models_train_alike(kind: str) -> None:
    """Curvature in the chain, a base expert that is a slice of shared ones, and experts that take no gradient."""
    shared: dict[str, Any] = {"n_shared": 2, "base": {"init": "shared_expert", "index": 1}} if kind == "shared" else {}
    found = []
    for context in (nullcontext, gathered):
        model = layers(kind == "curved", **shared)
        if kind == "frozen":
            model[1].experts.up_proj.requires_grad_(False)
        chains = link(model)
        with context(chains):
            for seed in range(2):
                loss(model, seed).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, plain in found[0].items():
        assert (plain is None) == (found[1][name] is None), name
        if plain is not None:
            assert_near(found[1][name], plain, CERTIFIED, TIGHT)


def test_separate_modules() -> None:
    found = []
    for context in (nullcontext, gathered):
        torch.manual_seed(0)
        members = [PlainMember(nn.ModuleList(nn.Linear(3, 4).double() for _ in range(3))) for _ in range(3)]
        members[0].base = {k: p.detach().requires_grad_() for k, p in nn.Linear(3, 4).double().named_parameters()}
        members[0].experts[1].weight.requires_grad_(False)
        chain = BaseExpertChain(members, ChainConfig(gamma=0.5))
        with context(chain):
            scalar_of(chain.bases()).backward()
        found.append([p.grad for member in members for p in member.experts.parameters()])
    for plain, once in zip(*found, strict=True):
        assert (plain is None) == (once is None)
        if plain is not None:
            assert_near(once, plain, 0, TIGHT)


def test_one_pass_of_the_chain_for_all_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]
    real = Adjoint.layers

    def counted(*args: Any) -> Any:
        count[0] += 1
        return real(*args)

    monkeypatch.setattr(Adjoint, "layers", counted)
    chain, *_ = random_chain(ChainConfig(gamma=0.5))
    with gathered(chain):
        for seed in range(3):
            scalar_of(chain.bases(), seed).backward()
        assert count[0] == 0
    assert count[0] == 1
    for seed in range(3):
        scalar_of(chain.bases(), seed).backward()
    assert count[0] == 4, "without it, one for each"


def test_evaluation_in_between_and_an_earlier_pass() -> None:
    chain, experts, base = random_chain(ChainConfig(gamma=0.5))
    scalar_of(chain.bases()).backward()
    wanted = [None if p.grad is None else p.grad.clone() for p in leaves(experts, base)]
    for p in leaves(experts, base):
        p.grad = None
    with gathered([chain]) as [gathering]:
        total = scalar_of(chain.bases())
        with torch.no_grad():
            assert not any(t.requires_grad for b in chain.bases()[1:] for t in b.values())
        with torch.inference_mode():
            chain.bases()
        total.backward()
        assert gathering.waiting
        gathering.backward()
        assert not gathering.waiting
        for p, exact in zip(leaves(experts, base), wanted, strict=True):
            assert (p.grad is None) == (exact is None)
            if exact is not None:
                assert_near(p.grad, exact, 0, TIGHT)


def test_bfloat16_gradients_stay_bfloat16() -> None:
    torch.manual_seed(0)
    members = [PlainMember({"w": torch.randn(3, 4, 5).bfloat16().requires_grad_()}) for _ in range(3)]
    members[0].base = {"w": torch.randn(4, 5).bfloat16().requires_grad_()}
    chain = BaseExpertChain(members, ChainConfig(gamma=0.5))
    with gathered(chain):
        sum(t.square().sum() for b in chain.bases()[1:] for t in b.values()).backward()
    grads = [members[0].experts["w"].grad, members[1].experts["w"].grad, members[0].base["w"].grad]
    assert all(g.dtype == torch.bfloat16 and g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("how", ["parameter", "invalidate"])
@pytest.mark.parametrize("then", ["bases", "end"])
def test_a_change_while_gradients_wait_is_refused(how: str, then: str) -> None:
    chain, experts, _ = random_chain(ChainConfig(gamma=0.5))

    def change() -> None:
        if how == "invalidate":
            chain.invalidate()
        else:
            with torch.no_grad():
                experts[1]["weight"].add_(1.0)

    with pytest.raises(NashSolveError, match=r"before optimizer\.step"), gathered(chain):
        scalar_of(chain.bases()).backward()
        change()
        if then == "bases":
            chain.bases()
    assert all(t.grad is None for e in experts for t in e.values())


def test_nothing_is_added_where_the_body_fails() -> None:
    chain, experts, _ = random_chain(ChainConfig(gamma=0.5))
    with pytest.raises(ZeroDivisionError), gathered(chain):
        scalar_of(chain.bases()).backward()
        raise ZeroDivisionError
    assert all(t.grad is None for e in experts for t in e.values())
    assert chain.gathering is None
    scalar_of(chain.bases()).backward()
    assert experts[0]["weight"].grad is not None, "and the chain goes on as before"


def test_what_is_refused() -> None:
    chain, *_ = random_chain(ChainConfig(gamma=0.5))
    with gathered(chain), pytest.raises(InvalidProblem, match="already"), gathered(chain):
        pass
    with pytest.raises(InvalidType, match=r"link\(\)"), gathered(nn.Linear(2, 2)):
        pass
    members = [PlainMember({"w": torch.randn(3, 4).requires_grad_() * 2}) for _ in range(2)]
    members[0].base = {"w": torch.randn(4).requires_grad_()}
    with pytest.raises(InvalidProblem, match="leaves"), gathered(BaseExpertChain(members, ChainConfig())) as [one]:
        sum(t.sum() for t in one._chain.bases()[1].values()).backward()


def test_replicas_of_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, *_ = random_chain(ChainConfig(gamma=0.5))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(InvalidProblem, match="no_sync"), gathered(chain):
        pass


def test_the_clock_times_both_ends() -> None:
    model, clock = layers(), ChainClock()
    with clock.gathered(link(model)):
        loss(model, 0).backward()
        assert clock.forward > clock.solves > 0
        assert clock.backward == 0
    assert clock.backward > 0
    assert model[0].experts.up_proj.grad is not None
