"""Learned curvature: against full Kronecker products, where it starts, its gradients, and its place in the chain."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch
from torch import nn

from nashsolve.integrations.torch_moe import BaseExpertChain, ChainConfig, MoE, MoEConfig, MomentumConfig, link
from nashsolve.integrations.torch_moe.curvature import FACTORS, KroneckerCurvature, divisors
from nashsolve.integrations.torch_moe.experts import Slot
from nashsolve.integrations.torch_moe.merge_rules.curved_merge import curved_merge
from tests.asserts import assert_near
from tests.torch_moe.build import TIGHT, flat, scalar_of

SHAPES = {"up_proj": (6, 4), "up_proj_bias": (6,)}


def curvature(rank: int = 2, normalise: bool = True, noise: float = 0.4) -> KroneckerCurvature:
    torch.manual_seed(0)
    built = KroneckerCurvature(3, SHAPES, rank, normalise).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return built


def full(built: KroneckerCurvature, i: int) -> torch.Tensor:
    """M_i as one matrix on row-major vectors of up_proj."""
    a, a2, b, b2 = (getattr(built, f"up_proj_{name}")[i] for name in FACTORS)
    terms = [
        torch.kron(torch.kron(a[r], a2[r]), torch.kron(b[r].contiguous(), b2[r].contiguous())) for r in range(len(a))
    ]
    return built.scale * sum(terms)


def test_divisors_are_nearest_to_the_root() -> None:
    sizes = {768: (24, 32), 3072: (48, 64), 352: (16, 22), 128: (8, 16), 2048: (32, 64), 1408: (32, 44), 7: (1, 7)}
    assert {size: divisors(size) for size in sizes} == sizes


@pytest.mark.parametrize("rank", [1, 3])
def test_apply_is_the_full_matrix(rank: int) -> None:
    built = curvature(rank)
    tau = torch.randn(6, 4, dtype=torch.float64)
    for i in range(3):
        found = built.slot("up_proj").apply(i, tau)
        assert_near(found.detach().reshape(-1), (full(built, i) @ tau.reshape(-1)).detach(), 0, TIGHT)
    assert built.slot("up_proj_bias") is None, "biases are not curved"


def test_normalised_starts_at_the_identity_and_published_at_rank_times_it() -> None:
    tau = torch.randn(6, 4, dtype=torch.float64)
    for normalise, factor in ((True, 1.0), (False, 8.0)):
        built = curvature(8, normalise, noise=0.0)
        assert_near(built.slot("up_proj").apply(1, tau).detach(), factor * tau, 0, TIGHT)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("over_base", [True, False])
def test_merge_gradcheck(fused: bool, ties: bool, over_base: bool) -> None:
    built = curvature()
    factors = [getattr(built, f"up_proj_{name}") for name in FACTORS]
    torch.manual_seed(2)
    experts = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    stacked = torch.stack([e.detach() for e in experts]).requires_grad_()
    weights = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    base = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def merge(weights: torch.Tensor, base: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        tensors, inner = (rest[:1], rest[1:]) if fused else (rest[:3], rest[3:])
        slot = Slot("up_proj", tuple(tensors), fused)
        return curved_merge(
            slot, base, weights, type(built.slot("up_proj"))(tuple(inner), built.scale), ties, over_base
        )

    inputs = [weights, base, *([stacked] if fused else experts), *factors]
    assert torch.autograd.gradcheck(merge, inputs, fast_mode=True)
    moved = merge(*inputs)
    with torch.no_grad():
        tau = torch.stack(list(experts)) - base
        curved = torch.stack([(full(built, i) @ tau[i].reshape(-1)).reshape(6, 4) for i in range(3)])
        if ties:
            curved = curved * (tau.sign() == tau.sum(0).sign())
        wanted = torch.einsum("un,noi->uoi", weights, curved) + (base if over_base else 0)
    assert_near(moved.detach(), wanted, 0, TIGHT)


def curved_layers(in_chain: bool) -> nn.ModuleList:
    torch.manual_seed(0)
    config = MoEConfig.preset(
        "ep_camex_mom",
        d_model=4,
        d_hidden=4,
        n_experts=3,
        bias=True,
        merge={"eta": 0.5},
        curvature={"kind": "kronecker", "rank": 2, "in_chain": in_chain},
        chain={"gamma": 0.4},
        router={"options": {"level": "sequence"}},
    )
    layers = nn.ModuleList(MoE(config) for _ in range(3)).double()
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.curvature.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    link(layers)
    return layers


def test_curvature_in_the_chain_against_the_naive_loop() -> None:
    layers = curved_layers(True)
    chain: BaseExpertChain = layers[0].chain
    base = dict(layers[0].own_base())
    wanted: list[dict[str, Any]] = [base]
    mu = {k: torch.zeros_like(t, dtype=torch.complex128) for k, t in base.items()}
    beta = layers[0].config.chain.momentum
    multiplier = torch.polar(
        torch.tensor(beta.beta, dtype=torch.float64), torch.tensor(beta.phase, dtype=torch.float64)
    )
    for layer in layers[:-1]:
        now = {}
        for name, tensor in wanted[-1].items():
            step = torch.zeros_like(tensor)
            for i in range(3):
                tau = layer.experts.expert(i)[name] - tensor
                slot = layer.curvature.slot(name)
                step = step + (tau if slot is None else slot.apply(i, tau)) / 3
            mu[name] = multiplier * mu[name] + step
            now[name] = tensor + 0.4 * mu[name].real
        wanted.append(now)
    for found, exact in zip(chain.bases(), wanted, strict=True):
        assert_near(flat(found), flat(exact), 0, TIGHT)
    parameters = dict(layers.named_parameters())
    mine = torch.autograd.grad(scalar_of(chain.bases()), list(parameters.values()), allow_unused=True)
    other = torch.autograd.grad(scalar_of(wanted), list(parameters.values()), allow_unused=True)
    reached = set()
    for name, found, exact in zip(parameters, mine, other, strict=True):
        assert (found is None) == (exact is None), name
        if found is not None:
            assert_near(found, exact, 0, 10 * TIGHT)
            reached.add(name.split(".")[1])
    assert reached == {"experts", "curvature", "base"}


def test_curvature_stays_out_of_the_chain_unless_asked() -> None:
    ends = [flat(curved_layers(in_chain)[0].chain.bases()[-1]) for in_chain in (False, True)]
    assert abs(ends[0] - ends[1]).max() > 1e-3


def test_upcycled_layers_train_although_the_first_step_has_no_agreement() -> None:
    """Copies of one feed-forward: tau = 0, nothing to bargain about, and a router that waits until they differ."""
    torch.manual_seed(0)
    config = MoEConfig(
        d_model=4,
        d_hidden=6,
        n_experts=3,
        merge={"rule": "camex", "eta": 0.5},
        base={"init": "copy"},
        chain=ChainConfig(momentum=MomentumConfig()),
        router={"options": {"level": "sequence"}},
    )
    layers = nn.ModuleList(MoE(config) for _ in range(2)).double()
    for layer in layers:
        dense = {k: torch.randn(p.shape[1:], dtype=torch.float64) for k, p in layer.experts.named_parameters()}
        layer.experts.upcycle(dense, jitter=0.0)
        if layer.base is not None:
            layer.set_base(dense)
    (chain,) = link(layers)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-2)
    statuses, stuck = [], []
    for _ in range(3):
        optimizer.zero_grad()
        y = layers[1](layers[0](x))
        y.square().mean().backward()
        assert torch.isfinite(y).all()
        statuses.append(chain.report()[0]["status"])
        stuck.append(float(sum(p.grad.abs().sum() for p in layers[0].router.parameters())) == 0)
        optimizer.step()
    assert statuses[0] == "NO_AGREEMENT" and stuck[0]
    assert not stuck[-1]


@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_the_merge_is_an_operator_of_torch(curved: bool, fused: bool) -> None:
    """Its schema, shapes without data, and derivative are what torch.compile relies on."""
    torch.manual_seed(0)
    slot = curvature().slot("up_proj")
    experts = [torch.randn(6, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    tensors = [torch.stack(experts).detach().requires_grad_()] if fused else experts
    weights = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    base = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    factors = list(slot.factors) if curved else []
    torch.library.opcheck(
        torch.ops.nashsolve.curved_merge.default, (weights, base, tensors, factors, fused, 0.5, True, True)
    )
