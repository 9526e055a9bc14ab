"""Every merge rule at every level against the explicit merged expert of each token."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import MoE, link
from tests.asserts import assert_near
from tests.torch_moe.build import (
    CERTIFIED,
    LEVELS,
    SINGLE,
    TIGHT,
    hidden,
    layer,
    nash_alpha,
    one_expert,
    token_by_token,
    weights_per_token,
)

FACTORS = ("out_outer", "out_inner", "in_outer", "in_inner")
LEVEL = pytest.mark.parametrize("level", LEVELS)


def experts_of(moe: MoE) -> list[dict[str, Tensor]]:
    return [moe.experts.expert(i) for i in range(moe.config.n_experts)]


def combined(terms: list[dict[str, Tensor]], weights: Any) -> dict[str, Tensor]:
    return {name: sum(w * term[name] for w, term in zip(weights, terms, strict=True)) for name in terms[0]}


def kronecker(moe: MoE, i: int, name: str, tau: Tensor) -> Tensor:
    """Curvature by full Kronecker products of matrices, biases left alone."""
    if tau.ndim == 1 or moe.curvature is None:
        return tau
    a, a2, b, b2 = (
        getattr(moe.curvature, f"{name}_{f}")[i] for f in ("out_outer", "out_inner", "in_outer", "in_inner")
    )
    rank = moe.config.curvature.rank
    total = sum(torch.kron(a[r], a2[r]) @ tau @ torch.kron(b[r], b2[r]).T for r in range(rank))
    return total / rank if moe.config.curvature.normalise else total


@LEVEL
@pytest.mark.parametrize("selection", ["all", "selected"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swiglu"])
def test_smear(level: str, selection: str, activation: str) -> None:
    moe = layer("smear", level, top_k=2, merge={"selection": selection}, activation=activation)
    x = hidden()
    y = moe(x)
    output = moe.router_output
    s = weights_per_token(moe, x, output.probs if selection == "all" else output.dense())
    wanted = token_by_token(moe, x, lambda b, t: combined(experts_of(moe), s[b, t]))
    assert_near(y.detach(), wanted.detach(), 0, TIGHT)


def test_lory_is_smear_over_causal_segments() -> None:
    lory, smear = layer("lory", "segment"), layer("smear", "segment")
    assert_near(lory(hidden()).detach(), smear(hidden()).detach(), 0)
    x = hidden()
    changed = x.clone()
    changed[:, 4] += 1.0
    with torch.no_grad():
        moved = (lory(changed) - lory(x)).abs().amax((0, 2))
    assert moved[:4].max() == 0, "later tokens must not reach earlier ones"
    assert moved[4] > 1e-3 and moved[6] > 0, "the second segment decides about the third"
    with pytest.raises(InvalidProblem, match="level='segment'"):
        layer("lory", "sequence")(hidden())


@LEVEL
@pytest.mark.parametrize("curved", ["identity", "normalised", "published"])
@pytest.mark.parametrize("mask", ["none", "ties"])
def test_camex(level: str, curved: str, mask: str) -> None:
    curvature: dict[str, Any] = {"kind": "kronecker", "rank": 2, "normalise": curved == "normalised"}
    if curved == "identity":
        curvature = {"kind": "identity", "rank": 1}
    moe = layer("camex", level, merge={"eta": 0.7, "mask": mask}, curvature=curvature)
    with torch.no_grad():
        for parameter in [] if moe.curvature is None else moe.curvature.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = hidden()
    y = moe(x)
    s = weights_per_token(moe, x, moe.router_output.probs)
    base, experts = moe.base_expert(), experts_of(moe)
    taus = [{k: e[k] - base[k] for k in base} for e in experts]
    curved_taus = [{k: kronecker(moe, i, k, t[k]) for k in t} for i, t in enumerate(taus)]
    if mask == "ties":
        signs = {k: sum(t[k] for t in taus).sign() for k in base}
        curved_taus = [{k: c[k] * (t[k].sign() == signs[k]) for k in c} for c, t in zip(curved_taus, taus, strict=True)]
    wanted = token_by_token(moe, x, lambda b, t: combined([base, *curved_taus], [1.0, *(0.7 * s[b, t])]))
    assert_near(y.detach(), wanted.detach(), 0, 10 * TIGHT)
    loss = (y * hidden(9)).sum()
    parameters = dict(moe.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    exact = torch.autograd.grad((wanted * hidden(9)).sum(), list(parameters.values()), allow_unused=True)
    for name, mine, other in zip(parameters, found, exact, strict=True):
        assert other is not None, f"{name} has no part in the reference"
        assert_near(mine, other, 0, 100 * TIGHT)


@pytest.mark.parametrize("system", ["camex", "ep_camex", "namex", "namex_full_mom", "namex_q"])
def test_eta_one_and_identity_curvature_is_smear(system: str) -> None:
    """The base expert cancels, whatever it is and wherever a chain takes it; with another eta it does not."""
    plain: dict[str, Any] = {"curvature": {"kind": "identity", "rank": 1}} if system == "camex" else {}
    smear = torch.nn.ModuleList(layer("smear", seed=k) for k in range(3))
    for eta, same in ((1.0, True), (0.5, False)):
        moes = torch.nn.ModuleList(layer(system, seed=k, merge={"eta": eta, "mask": "none"}, **plain) for k in range(3))
        moes.load_state_dict(smear.state_dict(), strict=False)
        if system != "camex":
            assert len(link(moes)) == 1
        for moe, other in zip(moes, smear, strict=True):
            off = (moe(hidden()) - other(hidden())).abs().max()
            assert (off < TIGHT) if same else (off > 1e-3)


def test_camex_dropout_drops_whole_experts_of_a_row() -> None:
    moe = layer(
        "camex", "sequence", curvature={"kind": "identity"}, merge={"eta": 1.0, "mask": "dropout", "dropout": 0.5}
    )
    x = hidden(batch=3)
    torch.manual_seed(3)
    y = moe(x)
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones(3, 4, dtype=torch.float64), 0.5)
    s = weights_per_token(moe, x, moe.router_output.probs * kept)
    base, experts = moe.base_expert(), experts_of(moe)
    wanted = token_by_token(moe, x, lambda b, t: combined([base, *experts], [1 - s[b, t].sum(), *s[b, t]]))
    assert_near(y.detach(), wanted.detach(), 0, TIGHT)
    moe.eval()
    plain = layer("camex", "sequence", curvature={"kind": "identity"}, merge={"eta": 1.0, "mask": "none"}).eval()
    assert_near(moe(x).detach(), plain(x).detach(), 0)


def test_few_selected_as_published() -> None:
    """With one of four experts selected the published code forgets base and curvature; with two it does not."""
    for k in (1, 2):
        settings: dict[str, Any] = {"eta": 0.5, "selection": "selected", "mask": "none"}
        moe = layer("camex", top_k=k, curvature={"kind": "identity"}, merge=settings | {"few_selected": "plain_sum"})
        always = layer("camex", top_k=k, curvature={"kind": "identity"}, merge=settings)
        x = hidden()
        y = moe(x)
        if k == 2:
            assert_near(y.detach(), always(x).detach(), 0)
            continue
        s = weights_per_token(moe, x, moe.router_output.dense())
        wanted = token_by_token(moe, x, lambda b, t, s=s, moe=moe: combined(experts_of(moe), s[b, t]))
        assert_near(y.detach(), wanted.detach(), 0, TIGHT)
        assert (y - always(x)).abs().max() > 1e-3


@LEVEL
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("softmax", ["before", "after"])
def test_smoe(level: str, k: int, softmax: str) -> None:
    moe = layer("smoe_top1", level, top_k=k, router={"options": {"softmax": softmax}})
    x = hidden()
    y = moe(x)
    s = weights_per_token(moe, x, moe.router_output.dense())
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            chosen = [i for i in range(4) if s[b, t, i] != 0]
            assert len(chosen) == k
            wanted = sum(s[b, t, i] * one_expert(moe.experts.expert(i), x[b, t], "gelu") for i in chosen)
            assert_near(y[b, t].detach(), wanted.detach(), 0, TIGHT)


def test_published_top1_never_trains_its_router() -> None:
    for system, trained in (("smoe_top1", True), ("smoe_top1_published", False)):
        moe = layer(system, "token")
        moe(hidden()).square().sum().backward()
        size = sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in moe.router.parameters())
        assert (size > 1e-6) == trained


def test_usage_weighted_average() -> None:
    moe = layer("usage", "token", top_k=1, merge={"usage_decay": 0.25})
    x = hidden()
    uniform = token_by_token(moe, x, lambda b, t: combined(experts_of(moe), [0.25] * 4))
    assert_near(moe(x).detach(), uniform.detach(), 0, TIGHT)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 3:] = False
    moe.rule.pending.zero_()
    moe(x, token_mask=mask)
    index = moe.router_output.topk_index.reshape(2, 7)
    counts = torch.bincount(index[mask], minlength=4).double()
    moe.after_step()
    share = 0.25 * 0.25 + 0.75 * counts / counts.sum()
    assert_near(moe.rule.usage, share, 0, TIGHT)
    wanted = token_by_token(moe, x, lambda b, t: combined(experts_of(moe), share))
    assert_near(moe.eval()(x).detach(), wanted.detach(), 0, TIGHT)
    moe.after_step()
    assert_near(moe.rule.usage, share, 0, TIGHT)


@LEVEL
@pytest.mark.parametrize("players", ["selected", "all"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_token_nash_over_outputs(level: str, players: str, k: int) -> None:
    moe = layer("token_nash", level, top_k=k, merge={"players": players})
    x = hidden()
    y = moe(x)
    output = moe.router_output
    s = weights_per_token(moe, x, output.dense() if players == "selected" else output.probs)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            chosen = [i for i in range(4) if s[b, t, i] != 0]
            outputs = torch.stack([one_expert(moe.experts.expert(i), x[b, t], "gelu") for i in chosen]).detach()
            power = s[b, t, chosen].detach()
            alpha = torch.from_numpy(nash_alpha((outputs @ outputs.T).numpy(), (power / power.sum()).numpy()))
            wanted = (power.sum() * alpha / alpha.sum()) @ outputs
            assert_near(y[b, t].detach(), wanted, 0, SINGLE if k == 3 or players == "all" else CERTIFIED)
    assert moe.rule.opposed == 0


@LEVEL
@pytest.mark.parametrize("eta", [None, 0.6])
def test_token_nash_over_parameters(level: str, eta: float | None) -> None:
    moe = layer("token_nash", level, top_k=2, merge={"vectors": "parameters", "eta": eta})
    x = hidden()
    y = moe(x)
    base, experts = moe.base_expert(), experts_of(moe)
    taus = torch.stack([torch.cat([(e[k] - base[k]).reshape(-1) for k in base]) for e in experts]).detach()
    gram = (taus @ taus.T).numpy()
    s = weights_per_token(moe, x, moe.router_output.dense()).detach()
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            chosen = [i for i in range(4) if s[b, t, i] != 0]
            power = s[b, t, chosen]
            alpha = torch.from_numpy(nash_alpha(gram[chosen][:, chosen], (power / power.sum()).numpy()))
            c = power.sum() * alpha / alpha.sum()
            if eta is None:
                wanted = sum(c[j] * one_expert(experts[i], x[b, t], "gelu") for j, i in enumerate(chosen))
            else:
                terms = [base, *(experts[i] for i in chosen)]
                wanted = one_expert(combined(terms, [1 - eta * c.sum(), *(eta * c)]), x[b, t], "gelu")
            assert_near(y[b, t].detach(), wanted.detach(), 0, CERTIFIED)


def test_token_nash_gradients() -> None:
    """The router is trained through its weights; the inner products only where asked."""
    grads = {}
    for detach in (True, False):
        moe = layer("token_nash", "token", top_k=2, merge={"detach_gram": detach})
        moe(hidden()).square().sum().backward()
        grads[detach] = moe.experts.up_proj.grad
        assert sum(float(p.grad.abs().sum()) for p in moe.router.parameters()) > 1e-6
    assert (grads[True] - grads[False]).abs().max() > 1e-6
