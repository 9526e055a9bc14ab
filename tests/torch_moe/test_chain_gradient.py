"""Gradients of the chain: against autograd of the naive loop, and against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.core.errors import NashSolveError
from nashsolve.integrations.torch_moe import BargainConfig, BaseExpertChain, ChainConfig, MomentumConfig, PlainMember
from tests.asserts import assert_bitwise, assert_near
from tests.torch_moe.build import TIGHT, naive_chain, random_chain, scalar_of

MOMENTA = {
    "none": (MomentumConfig(), 0.0),
    "real": (MomentumConfig(kind="real", beta=0.5), 0.5),
    "complex": (MomentumConfig(kind="complex", beta=0.9, phase=0.5), 0.9 * np.exp(0.5j)),
    "quaternion": (MomentumConfig(kind="quaternion", quaternion=(0.5, 0.1, 0.2, -0.2)), 0.5 + 0.3j),
    "heavy_ball": (MomentumConfig(kind="heavy_ball", beta=-0.4), -0.4),
}


def leaves(experts: Any, base: Any) -> list[torch.Tensor]:
    return [*(t for e in experts for t in e.values()), *base.values()]


@pytest.mark.parametrize("kind", MOMENTA)
@pytest.mark.parametrize("bargain", ["uniform", "exact"])
def test_gradient_is_that_of_the_naive_loop(kind: str, bargain: str) -> None:
    momentum, beta = MOMENTA[kind]
    settings: Any = "uniform" if bargain == "uniform" else BargainConfig(scale="exact")
    chain, experts, base = random_chain(ChainConfig(bargain=settings, gamma=0.2, momentum=momentum))
    found = torch.autograd.grad(scalar_of(chain.bases()), leaves(experts, base), allow_unused=True)
    rows = [r["coefficients"] for r in chain.report()]
    loss = scalar_of(naive_chain(experts, base, rows, 0.2, beta))
    wanted = torch.autograd.grad(loss, leaves(experts, base), allow_unused=True)
    for mine, exact in zip(found, wanted, strict=True):
        assert (mine is None) == (exact is None), "only the last layer's experts have no part in the chain"
        if mine is not None:
            assert_near(mine, exact, 0, 10 * TIGHT)
    assert [g is None for g in found] == [False] * 6 + [True] * 2 + [False] * 2


DIFFERENTIABLE = {
    "sum_to_one": ChainConfig(detach_alpha=False, gamma=0.7),
    "exact": ChainConfig(detach_alpha=False, gamma=0.1, bargain=BargainConfig(scale="exact")),
    "frobenius": ChainConfig(detach_alpha=False, gamma=0.1, bargain=BargainConfig(scale="frobenius")),
    "unit_norm": ChainConfig(detach_alpha=False, gamma=0.1, bargain=BargainConfig(scale="unit_norm")),
    "match_mean": ChainConfig(detach_alpha=False, interval=2, bargain=BargainConfig(scale="match_mean")),
    "biases follow": ChainConfig(detach_alpha=False, gamma=0.7, biases="follow"),
    "ridge": ChainConfig(detach_alpha=False, interval="once", bargain=BargainConfig(ridge=0.3)),
    "cap": ChainConfig(detach_alpha=False, gamma=0.7, bargain=BargainConfig(scale="frobenius", cap=0.3)),
    "mean": ChainConfig(
        detach_alpha=False, gamma=0.2, bargain=BargainConfig(disagreement="mean", radius_factor=2.0, scale="exact")
    ),
    "momentum": ChainConfig(
        detach_alpha=False,
        gamma=0.3,
        granularity="linear",
        momentum=MomentumConfig(kind="complex", beta=0.5, phase=math.pi / 6),
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck_through_alpha(name: str) -> None:
    config = DIFFERENTIABLE[name]
    _, experts, base = random_chain(config, layers=4, shapes=((2, 3), (2,)))
    names = list(base)
    inputs = leaves(experts, base)

    def ends(*tensors: torch.Tensor) -> torch.Tensor:
        rows = [dict(zip(names, tensors[k : k + 2], strict=True)) for k in range(0, len(tensors), 2)]
        members = [PlainMember(row) for row in rows[:-1]]
        members[0].base = rows[-1]
        bases = BaseExpertChain(members, config).bases()
        return torch.cat([t.reshape(-1) for b in bases for t in b.values()])

    # One random direction tells of any wrong entry; every direction is tried for the first case.
    assert torch.autograd.gradcheck(ends, inputs, fast_mode=name != "sum_to_one")


def gradients(config: ChainConfig) -> list[torch.Tensor | None]:
    chain, experts, base = random_chain(config)
    return list(torch.autograd.grad(scalar_of(chain.bases()), leaves(experts, base), allow_unused=True))


def test_detaching_changes_the_gradient() -> None:
    constant, through, cut = (
        gradients(ChainConfig(gamma=0.5, detach_alpha=alpha, detach_chain=whole))
        for alpha, whole in ((True, False), (False, False), (True, True))
    )
    assert (constant[0] - through[0]).abs().max() > 1e-3
    assert all(g is None for g in cut[:8]), "a detached chain passes nothing on to experts"
    assert cut[8] is not None, "the first layer still trains its base expert"


def test_many_backward_passes_through_one_chain() -> None:
    """Gradient accumulation: the cached chain is differentiated again, without computing it again."""
    chain, experts, base = random_chain(ChainConfig(gamma=0.5))
    once = torch.autograd.grad(scalar_of(chain.bases()), leaves(experts, base), allow_unused=True)
    for _ in range(2):
        scalar_of(chain.bases()).backward()
    for tensor, exact in zip(leaves(experts, base), once, strict=True):
        assert (tensor.grad is None) == (exact is None)
        if exact is not None:
            assert_bitwise(tensor.grad, 2 * exact)


def test_a_changed_parameter_before_backward_is_refused() -> None:
    chain, experts, _ = random_chain(ChainConfig(gamma=0.5))
    loss = scalar_of(chain.bases())
    with torch.no_grad():
        experts[1]["weight"].add_(1.0)
    with pytest.raises(NashSolveError, match=r"before optimizer\.step"):
        loss.backward()


def test_separate_modules_get_the_gradient_of_fused_ones() -> None:
    config = ChainConfig(gamma=0.5, momentum=MomentumConfig(kind="real", beta=0.3))
    chain, experts, base = random_chain(config, shapes=((4, 3), (4,)))
    loss = scalar_of(chain.bases())
    wanted = torch.autograd.grad(loss, leaves(experts, base), allow_unused=True)
    modules = []
    for fused in experts:
        linears = [torch.nn.Linear(3, 4).double() for _ in range(3)]
        for i, module in enumerate(linears):
            module.load_state_dict({name: tensor[i].detach() for name, tensor in fused.items()})
        modules.append(torch.nn.ModuleList(linears))
    members = [PlainMember(m) for m in modules]
    members[0].base = base
    other = BaseExpertChain(members, config)
    again = scalar_of(other.bases())
    assert_near(again, loss, TIGHT)
    again.backward()
    for layer, list_ in enumerate(modules[:-1]):
        for k, name in enumerate(("weight", "bias")):
            rows = torch.stack([getattr(module, name).grad for module in list_])
            assert_near(rows, wanted[2 * layer + k], 0, TIGHT)
