"""Experts as vectors: every way to store them, without copies; slices of a shared expert; where base experts start."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch
from torch import nn

from nashsolve.core.errors import InvalidProblem, InvalidType
from nashsolve.integrations.torch_moe import ExpertView, FusedExperts, MoE, MoEConfig, domain_gram, shared_slices
from nashsolve.integrations.torch_moe.feed_forward import feed_forward
from tests.asserts import assert_near
from tests.torch_moe.build import CERTIFIED, TIGHT, domain_vectors, flat

SIZES = {"d_model": 5, "d_hidden": 6, "n_experts": 4}


def modules(n: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)).double() for _ in range(n)]


def fused(like: list[nn.Module]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([dict(m.named_parameters())[name] for m in like]) for name in dict(like[0].named_parameters())
    }


@pytest.mark.parametrize("kind", ["list", "ModuleList", "ModuleDict", "mapping", "module"])
def test_every_storage_is_the_same_view(kind: str) -> None:
    experts = modules()
    source: object = experts
    if kind == "ModuleList":
        source = nn.ModuleList(experts)
    elif kind == "ModuleDict":
        source = nn.ModuleDict({f"expert_{i}": m for i, m in enumerate(experts)})
    elif kind == "mapping":
        source = fused(experts)
    elif kind == "module":
        source = nn.Module()
        for name, tensor in fused(experts).items():
            source.register_parameter(name.replace(".", "_"), nn.Parameter(tensor.detach()))
    view = ExpertView.of(source)
    assert (view.n, view.size) == (3, 4 * 6 + 6 + 6 * 4 + 4)
    base = {slot.name: torch.full(slot.shape, 0.1, dtype=torch.float64) for slot in view.slots}
    tau = domain_vectors(fused(experts), dict(zip(fused(experts), base.values(), strict=True)))
    found = domain_gram(view, base)
    assert_near(found.gram, tau @ tau.T, CERTIFIED)
    assert_near(found.norms, np.linalg.norm(tau, axis=1), CERTIFIED)
    unit = tau / np.linalg.norm(tau, axis=1, keepdims=True)
    assert_near(found.cosines, unit @ unit.T, 0, CERTIFIED)


def test_views_share_memory() -> None:
    experts = FusedExperts(4, 5, 6, "gelu", True)
    view = ExpertView.of(experts)
    inside = {p.untyped_storage().data_ptr() for p in experts.parameters()}
    for vector in view.vectors():
        assert {t.untyped_storage().data_ptr() for t in vector} == inside
    separate = modules()
    for vector, module in zip(ExpertView.of(separate).vectors(), separate, strict=True):
        assert [t.data_ptr() for t in vector] == [p.data_ptr() for p in module.parameters()]


def test_biases_are_part_of_the_vectors() -> None:
    """Two experts that differ in a bias only are not the same player."""
    experts = modules(2)
    experts[1].load_state_dict(experts[0].state_dict())
    view = ExpertView.of(experts)
    base = {slot.name: torch.zeros(slot.shape, dtype=torch.float64) for slot in view.slots}
    assert_near(domain_gram(view, base).cosines[0, 1], 1.0, TIGHT)
    with torch.no_grad():
        experts[1][2].bias.add_(1.0)
    assert domain_gram(view, base).cosines[0, 1] < 0.99


def test_groups() -> None:
    view = ExpertView.of(modules())
    assert view.groups("expert") == {"all": ["0.weight", "0.bias", "2.weight", "2.bias"]}
    assert view.groups("linear") == {"0": ["0.weight", "0.bias"], "2": ["2.weight", "2.bias"]}
    own = ExpertView.of(FusedExperts(2, 4, 4, "swiglu", True))
    assert own.groups("linear") == {
        "up_proj": ["up_proj", "up_proj_bias"],
        "down_proj": ["down_proj", "down_proj_bias"],
    }


def test_mix_is_the_sum() -> None:
    c = torch.rand(2, 3, dtype=torch.float64)
    for source in (modules(), fused(modules())):
        for slot in ExpertView.of(source).slots:
            wanted = sum(c[:, i].reshape(2, *[1] * len(slot.shape)) * slot.expert(i) for i in range(3))
            assert_near(slot.mix(c).detach(), wanted.detach(), 0, TIGHT)


@pytest.mark.parametrize("stored", ["modules", "fused"])
def test_merged_modules_run(stored: str) -> None:
    """A merged expert of any storage, through functional_call, against the merge written out; gradients too."""
    experts = modules()
    view = ExpertView.of(experts if stored == "modules" else fused(experts))
    base = {name: torch.randn_like(t) for name, t in view.expert(0).items()}
    c = torch.tensor([0.2, -0.1, 0.5], dtype=torch.float64, requires_grad=True)
    merged = view.merge(c, base, 1 - c.sum())
    x = torch.randn(5, 4, dtype=torch.float64)
    y = torch.func.functional_call(experts[0], merged, (x,))
    parameters = [dict(e.named_parameters()) for e in experts]
    explicit = {
        name: base[name] + sum(c[i] * (row[name] - base[name]) for i, row in enumerate(parameters)) for name in base
    }
    wanted = torch.func.functional_call(experts[0], explicit, (x,))
    assert_near(y.detach(), wanted.detach(), 0, TIGHT)
    leaves = [c, *(p for e in experts for p in e.parameters())]
    for mine, other in zip(
        torch.autograd.grad(y.square().sum(), leaves, retain_graph=True),
        torch.autograd.grad(wanted.square().sum(), leaves),
        strict=True,
    ):
        assert_near(mine, other, 0, 10 * TIGHT)
    rows = view.merge(torch.stack([c, c]).detach())
    assert {name: tuple(t.shape) for name, t in rows.items()} == {k: (2, *s) for k, s in view.shapes.items()}
    with pytest.raises(InvalidProblem, match="the last axis must be 3"):
        view.merge(torch.ones(2))
    with pytest.raises(InvalidProblem, match="the base expert has the tensors"):
        view.merge(c, {}, 1 - c.sum())
    with pytest.raises(InvalidProblem, match="belong together"):
        view.merge(c, base)


def test_transformers_experts_are_read() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.OlmoeConfig(
        hidden_size=8, intermediate_size=6, num_experts=4, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    experts = OlmoeExperts(config)
    with torch.no_grad():
        for p in experts.parameters():
            p.normal_()
    view = ExpertView.of(experts)
    assert view.n == 4 and view.shapes == {"gate_up_proj": (12, 8), "down_proj": (8, 6)}


def test_what_is_no_expert_is_refused() -> None:
    with pytest.raises(InvalidProblem, match="expert 1 has the parameters"):
        ExpertView.of([nn.Linear(3, 4), nn.Linear(3, 5)])
    with pytest.raises(InvalidProblem, match="'b' has shape"):
        ExpertView.of({"a": torch.ones(3, 2), "b": torch.ones(2, 2)})
    with pytest.raises(InvalidType, match="modules or a mapping"):
        ExpertView.of(3)
    with pytest.raises(InvalidType, match="at least one module"):
        ExpertView.of([])
    view = ExpertView.of({"a": torch.ones(3, 2)})
    with pytest.raises(InvalidProblem, match="the base expert has the tensors"):
        domain_gram(view, {"a": torch.ones(3)})


@pytest.mark.parametrize("gated", [False, True])
def test_slices_of_a_shared_expert_add_up_to_it(gated: bool) -> None:
    torch.manual_seed(0)
    activation = "swiglu" if gated else "gelu"
    inner, factor = 6, 2 if gated else 1
    shared = {
        "up_proj": torch.randn(3 * inner * factor, 5, dtype=torch.float64, requires_grad=True),
        "down_proj": torch.randn(5, 3 * inner, dtype=torch.float64),
    }
    shapes = {"up_proj": (inner * factor, 5), "down_proj": (5, inner)}
    slices = shared_slices(shared, shapes, gated=("up_proj",) if gated else ())
    assert len(slices) == 3
    x = torch.randn(4, 5, dtype=torch.float64)
    total = sum(feed_forward(x, part, activation) for part in slices)
    assert_near(total.detach(), feed_forward(x, shared, activation).detach(), 0, TIGHT)
    slices[1]["up_proj"].sum().backward()
    rows = shared["up_proj"].grad.abs().sum(1).nonzero().ravel().tolist()
    assert rows == ([*range(6, 12), *range(24, 30)] if gated else list(range(6, 12)))


def test_slices_that_do_not_fit_are_refused() -> None:
    shapes = {"up_proj": (6, 5), "down_proj": (5, 6)}
    with pytest.raises(InvalidProblem, match="has no tensor 'down_proj'"):
        shared_slices({"up_proj": torch.ones(12, 5)}, shapes)
    with pytest.raises(InvalidProblem, match="one axis several times"):
        shared_slices({"up_proj": torch.ones(13, 5), "down_proj": torch.ones(5, 12)}, shapes)
    with pytest.raises(InvalidProblem, match="equally many times"):
        shared_slices({"up_proj": torch.ones(12, 5), "down_proj": torch.ones(5, 18)}, shapes)


def test_base_experts_start_where_they_should() -> None:
    def built(**base: object) -> MoE:
        torch.manual_seed(1)
        return MoE(MoEConfig(**SIZES, merge={"rule": "camex", "eta": 0.5}, base=base)).double()

    copy = built(init="copy", index=2)
    assert_near(flat(copy.base_expert()), flat(copy.experts.expert(2)), 0)
    mean = np.mean([flat(copy.experts.expert(i)) for i in range(4)], axis=0)
    near = [
        np.abs(flat(built(init="mean_plus_noise", noise=noise).base_expert()) - mean).max() for noise in (0.01, 0.1)
    ]
    assert 0 < 5 * near[0] < near[1] < 1, "the noise is read, and there is always some"
    own = built(init="separate")
    assert np.abs(flat(own.base_expert()) - mean).max() > 0.1
    assert not any(name.startswith("base.") for name, _ in built(trainable=False).named_parameters())
    assert any(name.startswith("base.") for name, _ in own.named_parameters())


def test_a_given_base_is_needed_and_checked() -> None:
    moe = MoE(MoEConfig(**SIZES, merge={"rule": "camex", "eta": 0.5}, base={"init": "given"}))
    x = torch.randn(2, 3, 5)
    with pytest.raises(InvalidProblem, match="call set_base"):
        moe(x)
    with pytest.raises(InvalidProblem, match="the base expert given has"):
        moe.set_base({"up_proj": torch.ones(2)})
    given = {k: t.detach().clone() for k, t in moe.experts.expert(1).items()}
    moe.set_base(given)
    assert_near(flat(moe.base_expert()), flat(given), 0)
    moe(x)


def test_a_shared_expert_is_evaluated_and_is_the_base() -> None:
    torch.manual_seed(0)
    config = MoEConfig(
        **SIZES,
        n_shared=2,
        merge={"rule": "camex", "eta": 0.5},
        base={"init": "shared_expert", "index": 1},
        router={"options": {"level": "sequence"}},
    )
    moe = MoE(config).double()
    assert moe.base is None
    assert_near(flat(moe.base_expert()), flat(moe.shared.expert(1)), 0)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        whole = moe(x)
        shared = sum(feed_forward(x, moe.shared.expert(i), "gelu") for i in range(2))
        s = moe.router_output.probs
        merged = {
            k: (1 - 0.5) * moe.shared.expert(1)[k] + 0.5 * torch.einsum("bn,n...->b...", s, p)
            for k, p in moe.experts.named_parameters()
        }
    assert_near(whole, shared + feed_forward(x, merged, "gelu"), 0, TIGHT)
    loss = moe(x).sum()
    loss.backward()
    assert float(moe.shared.up_proj.grad.abs().sum()) > 0


def test_upcycling_copies_and_jitters() -> None:
    experts = FusedExperts(3, 5, 6, "gelu", True)
    dense = {k: torch.randn_like(t) for k, t in experts.expert(0).items()}
    experts.upcycle(dense, jitter=0.0)
    for i in range(3):
        assert_near(flat(experts.expert(i)), flat(dense), 0)
    experts.upcycle(dense, jitter=0.1, generator=torch.Generator().manual_seed(0))
    off = np.stack([flat(experts.expert(i)) - flat(dense) for i in range(3)])
    assert 0.05 < off.std() < 0.2 and np.abs(off[0] - off[1]).max() > 0.05
    with pytest.raises(InvalidProblem, match="one expert has"):
        experts.upcycle({"up_proj": torch.ones(2)}, jitter=0.1)
    with pytest.raises(InvalidProblem, match="jitter is -1"):
        experts.upcycle(dense, jitter=-1)
