"""Named choices of merging: a router for each linear layer, and experts that are dropped in training."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch
from torch import Tensor

from nashsolve.integrations.torch_moe import MoE, MoEConfig
from tests.asserts import assert_bitwise, assert_near
from tests.torch_moe.build import (
    ACTIVATIONS,
    CERTIFIED,
    LEVELS,
    TIGHT,
    hidden,
    layer,
    token_by_token,
    weights_per_token,
)

LEVEL = pytest.mark.parametrize("level", LEVELS)
IDENTITY: dict[str, Any] = {"curvature": {"kind": "identity"}}
MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "smear": ("smear", {"merge": {"granularity": "linear"}}),
    "camex": ("camex", IDENTITY | {"merge": {"granularity": "linear", "eta": 0.7, "mask": "none"}}),
    "ties": ("camex", IDENTITY | {"merge": {"granularity": "linear", "eta": 0.7, "mask": "ties"}}),
    "curved": ("camex", {"curvature": {"rank": 2}, "merge": {"granularity": "linear", "eta": 0.7, "mask": "none"}}),
    "few": (
        "camex",
        IDENTITY
        | {"merge": {"granularity": "linear", "eta": 0.7, "mask": "none", "few_selected": "plain_sum"}, "top_k": 1},
    ),
}


def merged(moe: MoE, name: str, s: Tensor) -> Tensor:
    """One tensor of the merged expert for the weights (N,) of one token, curvature being the identity still."""
    settings, stack = moe.config.merge, getattr(moe.experts, name)
    if settings.rule != "camex" or settings.few_selected == "plain_sum":
        return sum(w * e for w, e in zip(s, stack, strict=True))
    base = moe.base_expert()[name]
    tau = stack - base
    if settings.mask == "ties":
        tau = tau * (tau.sign() == tau.sum(0).sign())
    return base + 0.7 * sum(w * t for w, t in zip(s, tau, strict=True))


@LEVEL
@pytest.mark.parametrize("kind", MERGES)
def test_every_linear_layer_has_its_own_router(level: str, kind: str) -> None:
    """The second one is asked about the hidden units after the non-linearity, pooled as the first one's input."""
    system, settings = MERGES[kind]
    moe, x = layer(system, level, **settings), hidden()
    y = moe(x)
    plain = kind == "few"
    outputs = [output.dense() if plain else output.probs for output in (moe.router_output, moe.hidden_output)]
    first, second = (weights_per_token(moe, x, rows) for rows in outputs)
    act = ACTIVATIONS["gelu"]
    units = torch.stack(
        [
            torch.stack(
                [
                    act(merged(moe, "up_proj", first[b, t]) @ x[b, t] + merged(moe, "up_proj_bias", first[b, t]))
                    for t in range(7)
                ]
            )
            for b in range(2)
        ]
    )
    assert_near(moe.hidden_router(units).probs.detach(), moe.hidden_output.probs.detach(), 0, TIGHT)
    for b in range(2):
        for t in range(7):
            wanted = merged(moe, "down_proj", second[b, t]) @ units[b, t] + merged(moe, "down_proj_bias", second[b, t])
            assert_near(y[b, t].detach(), wanted.detach(), 0, 10 * TIGHT)
    whole = layer(system, level, **(settings | {"merge": settings["merge"] | {"granularity": "expert"}}))
    assert whole.hidden_router is None
    whole.load_state_dict({k: v for k, v in moe.state_dict().items() if not k.startswith("hidden_router")})
    assert (whole(x) - y).abs().max() > 1e-4, "the option must matter"
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in moe.hidden_router.parameters() if p.ndim > 1)


def test_gated_units_are_what_the_second_router_sees() -> None:
    moe = layer("smear", activation="swiglu", merge={"granularity": "linear"})
    assert moe.hidden_router.d_model == 6
    assert moe(hidden()).shape == (2, 7, 5)


def test_segments_stay_causal_with_two_routers() -> None:
    moe, x = layer("lory", "segment", merge={"granularity": "linear"}), hidden()
    changed = x.clone()
    changed[:, 4] += 1.0
    with torch.no_grad():
        moved = (moe(changed) - moe(x)).abs().amax((0, 2))
    assert moved[:4].max() == 0
    assert moved[4] > 1e-3


def test_both_routers_are_balanced_and_saved() -> None:
    moe = layer("camex_published", merge={"few_selected": "merge"}, balance={"switch": 0.5})
    moe(hidden())
    assert {"switch", "hidden_switch"} <= set(moe.losses)
    assert_near(moe.auxiliary_loss().detach(), sum(moe.losses.values()).detach(), CERTIFIED)
    names = {name.split(".")[0] for name in moe.state_dict()}
    assert {"router", "hidden_router"} <= names
    other = layer("camex_published", seed=5, merge={"few_selected": "merge"})
    other.load_state_dict(moe.state_dict())
    assert_bitwise(other.eval()(hidden()).detach(), moe.eval()(hidden()).detach())


def test_padding_takes_no_part_in_the_second_routers_mean() -> None:
    moe, x = layer("smear", merge={"granularity": "linear"}), hidden()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 4:] = False
    changed = x.clone()
    changed[0, 4:] += 3.0
    with torch.no_grad():
        assert_near(moe(changed, token_mask=mask)[0, :4], moe(x, token_mask=mask)[0, :4], 0, TIGHT)
        assert (moe(changed)[0, :4] - moe(x)[0, :4]).abs().max() > 1e-4


@LEVEL
@pytest.mark.parametrize("system", ["smear", "camex"])
def test_dropped_experts_leave_their_weight_to_the_others(level: str, system: str) -> None:
    settings: dict[str, Any] = {"mask": "dropout", "dropout": 0.5, "dropped": "renormalised"}
    extra = IDENTITY if system == "camex" else {}
    moe = layer(system, level, merge=settings | ({"eta": 1.0} if system == "camex" else {}), **extra)
    x = hidden()
    torch.manual_seed(11)
    y = moe(x)
    torch.manual_seed(11)
    probs = moe.router_output.probs
    kept = torch.rand_like(probs) >= 0.5
    assert (~kept).any() and kept.any()
    rows = []
    for weights, here in zip(probs, kept, strict=True):
        left = weights[here].sum()
        rows.append(torch.where(here, weights / left, 0.0) if left > 0 else weights)
    s = weights_per_token(moe, x, torch.stack(rows))
    assert_near(s.sum(-1).detach(), torch.ones_like(s[..., 0]), 0, TIGHT)
    experts = [moe.experts.expert(i) for i in range(4)]
    # The weights sum to one, so that the base expert cancels for eta = 1.
    wanted = token_by_token(
        moe, x, lambda b, t: {k: sum(w * e[k] for w, e in zip(s[b, t], experts, strict=True)) for k in experts[0]}
    )
    assert_near(y.detach(), wanted.detach(), 0, 10 * TIGHT)
    raised = layer(system, level, merge=settings | {"dropped": "raised"} | ({"eta": 1.0} if extra else {}), **extra)
    torch.manual_seed(11)
    assert (raised(x) - y).abs().max() > 1e-3
    assert_near(raised.eval()(x).detach(), moe.eval()(x).detach(), 0, TIGHT)


def test_a_row_that_loses_all_its_experts_keeps_them() -> None:
    moe = layer("smear", "token", merge={"mask": "dropout", "dropout": 0.99, "dropped": "renormalised"})
    torch.manual_seed(0)
    found = moe(hidden())
    plain = layer("smear", "token")(hidden())
    same = (found - plain).abs().amax(-1) < TIGHT
    assert same.any() and not same.all()


def test_smear_as_published() -> None:
    """Layer norm before the router and expert dropout of 0.1, neither of which `smear` has."""
    options = {"level": "sequence"}
    sizes = {"d_model": 5, "d_hidden": 6, "n_experts": 4}
    config = MoEConfig.preset("smear_published", **sizes, router={"options": options})
    assert (config.merge.mask, config.merge.dropout, config.merge.dropped) == ("dropout", 0.1, "renormalised")
    moe = MoE(config).double()
    x = hidden()
    mean = x.mean(1)
    normed = (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    moe(x)
    wanted = (normed @ moe.router.inner.gate.weight.T).softmax(-1)
    assert_near(moe.router_output.probs.detach(), wanted.detach(), 0, TIGHT)
