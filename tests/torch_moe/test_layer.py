"""The layer in a training loop: cache, accumulation, checkpointing, autocast, loss scaling, compile, resume, copies."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nashsolve.core.errors import InvalidProblem, InvalidType
from nashsolve.integrations.torch_moe import MoE, MoEConfig, chain, link
from tests.asserts import assert_bitwise, assert_near
from tests.tolerances import tolerance
from tests.torch_moe.build import CERTIFIED, SINGLE, TIGHT

SIZES: dict[str, Any] = {"d_model": 8, "d_hidden": 12, "n_experts": 4}


class Stack(nn.Module):
    """A few residual layers, with optional checkpointing."""

    def __init__(self, system: str = "namex_full_mom", layers: int = 3, seed: int = 0, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        routed = {"level": "sequence"} if system not in ("token_nash", "usage") and "smoe" not in system else {}
        eta = {"eta": 0.5} if "camex" in system or "namex" in system else {}
        settings = {**settings, "merge": eta | settings.get("merge", {})}
        settings["router"] = {"options": routed | settings.get("router", {}).get("options", {})}
        config = MoEConfig.preset(system, **(SIZES | {"balance": {"switch": 0.01}} | settings))
        self.layers = nn.ModuleList(MoE(config) for _ in range(layers))
        self.chains = tuple(link(self.layers)) if config.chain is not None else ()
        self.mode = "plain"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if self.mode == "plain":
                x = x + layer(x)
            else:
                x = x + checkpoint(layer, x, use_reentrant=self.mode == "reentrant")
        return x

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        y = self(x)
        return y.square().mean() + sum(layer.auxiliary_loss() for layer in self.layers)


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a bargain was solved, counted."""
    count = [0]
    real = chain.bargain_over_base

    def counted(*args: Any) -> Any:
        count[0] += 1
        return real(*args)

    monkeypatch.setattr(chain, "bargain_over_base", counted)
    return count


def test_the_chain_is_computed_once_for_each_state_of_the_parameters(solves: list[int]) -> None:
    model = Stack()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, 4):
        for micro in range(3):
            model.loss(batch(micro)).backward()
        with torch.no_grad():
            model(batch(9))
        assert solves[0] == 2 * step, "one solve for each link and step, whatever is run in between"
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(Stack(seed=1).state_dict())
    model(batch())
    assert solves[0] == 8
    model.chains[0].invalidate()
    model(batch())
    assert solves[0] == 10


def test_gradient_accumulation_is_the_sum() -> None:
    model, single = Stack().double(), Stack().double()
    for seed in range(2):
        model.loss(batch(seed, torch.float64)).backward()
    (single.loss(batch(0, torch.float64)) + single.loss(batch(1, torch.float64))).backward()
    for name, grad in gradients(model).items():
        assert_near(grad, gradients(single)[name], CERTIFIED, TIGHT)


@pytest.mark.parametrize("mode", ["reentrant", "not_reentrant"])
def test_activation_checkpointing_changes_no_gradient(mode: str, solves: list[int]) -> None:
    plain, checked = Stack().double(), Stack().double()
    checked.mode = mode
    x = batch(0, torch.float64).requires_grad_()
    plain(x).square().mean().backward()
    before = solves[0]
    checked(x).square().mean().backward()
    assert solves[0] - before == 2, "recomputing activations does not solve again"
    for name, grad in gradients(plain).items():
        assert_near(gradients(checked)[name], grad, CERTIFIED, TIGHT)


@pytest.mark.parametrize("system", ["namex_full", "camex", "token_nash", "smoe_top2", "smear"])
def test_autocast(system: str) -> None:
    """The chain stays in float32 with the same bits; the layer's products run in bfloat16 and gradients arrive."""
    model = Stack(system)
    wide = [{k: t.detach().clone() for k, t in b.items()} for c in model.chains for b in c.bases()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for c in model.chains:
            c.invalidate()
        found = [b for c in model.chains for b in c.bases()]
        y = model.layers[0](batch())
        loss = model.loss(batch())
    assert y.dtype == torch.bfloat16
    for mine, exact in zip(found, wide, strict=True):
        for name in mine:
            assert mine[name].dtype == torch.float32
            assert_bitwise(mine[name], exact[name])
    loss.backward()
    for name, grad in gradients(model).items():
        assert grad is None or (grad.dtype == torch.float32 and torch.isfinite(grad).all()), name
    exact = Stack(system)
    full = exact.loss(batch())
    assert_near(loss.detach().float(), full.detach(), tolerance("bfloat16", "products"))


def test_loss_scaling_is_exact_for_powers_of_two() -> None:
    model, scaled = Stack(), Stack()
    model.loss(batch()).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(scaled.parameters(), lr=0.0)
    scaler.scale(scaled.loss(batch())).backward()
    scaler.unscale_(optimizer)
    for name, grad in gradients(model).items():
        if grad is not None:
            assert_bitwise(gradients(scaled)[name], grad)
    scaler.step(optimizer)
    scaler.update()


def test_bfloat16_experts_have_a_chain_in_float32() -> None:
    model = Stack()
    model.to(torch.bfloat16)
    bases = model.chains[0].bases()
    assert {t.dtype for b in bases[1:] for t in b.values()} == {torch.float32}
    y = model(batch(0, torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(p.grad is None or p.grad.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("system", ["namex_full_mom", "usage", "camex", "token_nash"])
def test_resume_is_bitwise(system: str) -> None:
    settings: dict[str, Any] = {"router": {"options": {"top_k": 2}}} if system == "usage" else {}
    if system == "namex_full_mom":
        settings["chain"] = {"bargain": {"warm_start": True}}

    def train(model: Stack, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            model.loss(batch(step)).backward()
            optimizer.step()
            for layer in model.layers:
                layer.after_step()

    model = Stack(system, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    train(model, optimizer, range(3, 6))
    other = Stack(system, seed=5, **settings)
    other.load_state_dict(saved["model"])
    again = torch.optim.AdamW(other.parameters(), lr=1e-2)
    again.load_state_dict(saved["optimizer"])
    train(other, again, range(3, 6))
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert_bitwise(mine, theirs), name


def test_only_the_first_base_expert_is_saved() -> None:
    names = [n for n in Stack().state_dict() if ".base." in n]
    assert names == ["layers.0.base.up_proj", "layers.0.base.down_proj"]


def test_copies_and_pickles() -> None:
    model = Stack()
    model.loss(batch()).backward()
    wanted = model(batch(1)).detach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_bitwise(other(batch(1)).detach(), wanted)
        assert other.chains[0] is other.layers[0].chain
        with torch.no_grad():
            other.layers[0].experts.up_proj.add_(1.0)
        assert (other(batch(1)) - wanted).abs().max() > 1e-3
    assert_bitwise(model(batch(1)).detach(), wanted)


# Dynamo looks at the .grad of tensors inside a graph and hides PyTorch's warning by a filter that "error" overrides.
dynamo = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


CURVED: dict[str, Any] = {"curvature": {"kind": "kronecker", "rank": 2, "normalise": True}}


@dynamo
@pytest.mark.parametrize("system", ["namex_full_mom", "curved", "ties", "two routers"])
def test_compile_in_one_graph(system: str) -> None:
    """With the base experts passed in, a layer is one graph; gradients flow through them into the chain."""
    settings = {
        "namex_full_mom": {},
        "curved": CURVED,
        "ties": CURVED | {"merge": {"mask": "ties"}},
        "two routers": {"merge": {"granularity": "linear"}},
    }[system]
    model = Stack("namex_full_mom", layers=2, **settings).double()
    if model.layers[1].curvature is not None:
        with torch.no_grad():
            for parameter in model.layers[1].curvature.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    layer = torch.compile(model.layers[1], fullgraph=True, backend="aot_eager")
    x = batch(0, torch.float64)
    y = layer(x, base=model.chains[0].bases()[1])
    assert_near(y.detach(), model.layers[1](x).detach(), 0, TIGHT)
    y.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.layers[1](x).square().sum().backward()
    exact = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == exact.keys() and "layers.0.experts.up_proj" in found
    for name, gradient in exact.items():
        assert_near(found[name], gradient, CERTIFIED, TIGHT)


@dynamo
def test_a_layer_with_curvature_and_its_own_base_expert_is_one_graph() -> None:
    layer = Stack("camex", layers=1).layers[0].double()
    x = batch(0, torch.float64)
    assert_near(torch.compile(layer, fullgraph=True, backend="aot_eager")(x).detach(), layer(x).detach(), 0, TIGHT)


@dynamo
@pytest.mark.parametrize("system", ["namex_full", "smoe_top2", "token_nash", "camex", "smear"])
def test_compile_whole_models(system: str) -> None:
    model = Stack(system, layers=2).double()
    compiled = torch.compile(model, backend="aot_eager")
    x = batch(0, torch.float64)
    assert_near(compiled(x).detach(), model(x).detach(), 0, TIGHT)
    compiled(x).square().mean().backward()
    found = {n: None if g is None else g.clone() for n, g in gradients(model).items()}
    model.zero_grad()
    model(x).square().mean().backward()
    for name, grad in gradients(model).items():
        assert (grad is None) == (found[name] is None), name
        if grad is not None:
            assert_near(found[name], grad, CERTIFIED, TIGHT)


def test_inference_mode() -> None:
    model = Stack()
    with torch.inference_mode():
        first = model(batch())
    assert_near(model(batch()).detach(), first, 0, SINGLE)
    model.loss(batch()).backward()


def test_a_layer_outside_its_chain_says_so() -> None:
    config = MoEConfig.preset("namex", **SIZES, merge={"eta": 0.5}, router={"options": {"level": "sequence"}})
    with pytest.raises(InvalidProblem, match="link"):
        MoE(config)(batch())
    with pytest.raises(InvalidType, match="MoEConfig is needed"):
        MoE({"d_model": 3})
    with pytest.raises(InvalidProblem, match="no MoE layer with a chain"):
        link(nn.Linear(2, 2))


def test_chains_restart_where_shapes_and_stacks_change() -> None:
    def layer(**changes: Any) -> MoE:
        sizes = SIZES | changes
        return MoE(MoEConfig.preset("namex", **sizes, merge={"eta": 0.5}, router={"options": {"level": "sequence"}}))

    stages = nn.Sequential(layer(), layer(), nn.Linear(8, 8), layer(), layer(d_hidden=16), layer(n_experts=3))
    assert [len(c) for c in link(stages)] == [3, 1, 1]
    assert stages[0].base is not None and stages[3].base is None and stages[4].base is not None
    model = nn.ModuleDict({"encoder": nn.Sequential(layer(), layer()), "decoder": nn.Sequential(layer(), layer())})
    assert [len(c) for c in link(copy.deepcopy(model))] == [4]
    assert [len(c) for c in link(copy.deepcopy(model), stacks=("encoder", "decoder"))] == [2, 2]
    with pytest.raises(InvalidProblem, match="belongs to none of the stacks"):
        link(copy.deepcopy(model), stacks=("encoder",))
    with pytest.raises(InvalidProblem, match="stack 'vision' holds no"):
        link(copy.deepcopy(model), stacks=("encoder", "decoder", "vision"))
    with pytest.raises(InvalidProblem, match="start another chain where shapes change"):
        chain.BaseExpertChain([stages[0], stages[4]], stages[0].config.chain)


def test_another_chain_setting_starts_another_chain() -> None:
    config = MoEConfig.preset("namex", **SIZES, merge={"eta": 0.5}, router={"options": {"level": "sequence"}})
    other = config.changed(chain=config.chain.changed(gamma=0.5))
    assert [len(c) for c in link([MoE(config), MoE(config), MoE(other)])] == [2, 1]


def test_reports_are_plain() -> None:
    import json

    model = Stack()
    assert model.chains[0].report() == []
    model(batch())
    records = model.chains[0].report()
    assert [r["layer"] for r in records] == [0, 1]
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_input_shapes() -> None:
    tokens = Stack("smoe_top2").layers[0]
    x = batch()
    assert_near(tokens(x.reshape(-1, 8)).detach(), tokens(x).reshape(-1, 8).detach(), 0, SINGLE)
    with pytest.raises(InvalidProblem, match=r"\(batch, length"):
        Stack("smear").layers[0](x.reshape(-1, 8))
    with pytest.raises(InvalidProblem, match="hidden has shape"):
        tokens(torch.ones(2, 3, 5))


def test_balance_losses_are_added_up() -> None:
    model = Stack("smoe_top2", balance={"switch": 0.5, "z": 0.25})
    model(batch())
    layer = model.layers[0]
    assert set(layer.losses) == {"switch", "z"}
    z = layer.router_output.logits.logsumexp(-1).square().mean()
    assert_near(layer.losses["z"].detach(), 0.25 * z.detach(), SINGLE)
    assert_near(layer.auxiliary_loss().detach(), sum(layer.losses.values()).detach(), SINGLE)
    plain = Stack("smoe_top2", balance={"switch": 0.0}).layers[0]
    plain(batch())
    assert float(plain.auxiliary_loss().detach()) == 0.0


def test_padding_takes_no_part_in_the_merge_of_its_sequence() -> None:
    layer = Stack("smear", layers=1).layers[0]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    x, other = batch(), batch()
    other[0, 4:] = 7.0
    with torch.no_grad():
        assert_near(layer(x, token_mask=mask)[0, :4], layer(other, token_mask=mask)[0, :4], 0, SINGLE)
        assert (layer(x)[0, :4] - layer(other)[0, :4]).abs().max() > 1e-3


def test_the_noise_of_a_router_follows_the_generator_given() -> None:
    layer = Stack("smear", layers=1, router={"options": {"noise": 50.0}}).layers[0]
    one, same, other = (layer(batch(), generator=torch.Generator().manual_seed(s)).detach() for s in (1, 1, 2))
    assert_bitwise(one, same)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("swap", ["functional_call", "data"])
def test_swapped_parameters_are_never_taken_for_the_cached_ones(swap: str) -> None:
    """Temporary weights, as for averages of parameters: their storages are freed and may be handed out again."""
    model = Stack()
    names = [n for n, _ in model.named_parameters()]
    for seed in range(1, 5):
        other = Stack(seed=seed)
        weights = {n: p.detach().clone() for n, p in other.named_parameters()}
        with torch.no_grad():
            if swap == "functional_call":
                found = torch.func.functional_call(model, weights, (batch(),))
            else:
                for name in names:
                    model.get_parameter(name).data = weights[name]
                found = model(batch())
            assert_bitwise(found, other(batch()))
        del weights


@pytest.mark.parametrize("system", ["smoe_top2", "token_nash", "smear", "namex"])
def test_empty_batches(system: str) -> None:
    layer = Stack(system).layers[0]
    assert layer(batch()[:0]).shape == (0, 6, 8)


def test_a_chain_over_slices_of_shared_experts_is_cached_and_trains_them(solves: list[int]) -> None:
    settings: dict[str, Any] = {"n_shared": 2, "base": {"init": "shared_expert", "index": 1}, "chain": {"gamma": 0.5}}
    model = Stack("namex_full", **settings).double()
    for _ in range(2):
        model.loss(batch(0, torch.float64)).backward()
    assert solves[0] == 2
    shared = model.layers[0].shared.up_proj.grad.clone()
    single = Stack("namex_full", **settings).double()
    single.chains[0].config = single.chains[0].config.changed(detach_chain=True)
    for _ in range(2):
        single.loss(batch(0, torch.float64)).backward()
    assert (shared[1] - single.layers[0].shared.up_proj.grad[1]).abs().max() > 1e-6, "the chain reaches the slice"
    assert_near(shared[0], single.layers[0].shared.up_proj.grad[0], 0, CERTIFIED)


def test_one_expert_alone() -> None:
    model = Stack("namex_full", n_experts=1, balance={})
    model.loss(batch()).backward()
    record = model.chains[0].report()[0]
    assert record["coefficients"] == [1.0] and record["status"].startswith("SOLVED")
