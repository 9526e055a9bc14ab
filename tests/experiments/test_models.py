"""Models of the paper's sizes on the meta device; what their parts compute, in small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nashsolve.integrations.experiments.models.acmoe import AdaptiveClusterRouter
from nashsolve.integrations.experiments.models.llm import count_released
from nashsolve.integrations.experiments.models.small_vision import PatchMerging
from nashsolve.integrations.experiments.models.wikitext import SIZES, WikiTextModel
from nashsolve.integrations.experiments.pairing import paired_model
from nashsolve.integrations.experiments.studies import digits, glue, imagenet, language_model, wikitext
from nashsolve.integrations.experiments.systems import known_systems, moe_config
from nashsolve.integrations.experiments.training import chains_of, parameters
from nashsolve.integrations.torch_moe.layer import MoE


def on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize(("size", "millions"), [("small", 70.60), ("medium", 215.68), ("large", 388.1)])
def test_wikitext_sizes(size: str, millions: float) -> None:
    settings = wikitext.Settings(size=size, systems=["smoe_top2"], seeds=1)
    found = on_meta(lambda: parameters(wikitext.build(settings, SIZES[size], "smoe_top2")))
    assert found == pytest.approx(millions * 1e6, abs=0.05e6)


def test_expert_of_the_small_size_has_33024_parameters() -> None:
    settings = wikitext.Settings(size="small", systems=["smoe_top2"], seeds=1)
    model = on_meta(lambda: wikitext.build(settings, SIZES["small"], "smoe_top2"))
    assert next(m for m in model.modules() if isinstance(m, MoE)).expert_view().size == 33_024


def test_t5_base_with_eight_experts() -> None:
    pytest.importorskip("transformers")
    settings = glue.Settings(systems=["dense"], seeds=1, optimisation={"steps": 1, "lr": 0.1})
    (sizes, _) = glue.plan(settings)
    assert "222.9 M parameters; with 8 experts 1015.8 M" in sizes


def test_swin_moe_small() -> None:
    transformers = pytest.importorskip("transformers")
    settings = imagenet.Settings(systems=["smoe_top1"], seeds=1, optimisation={"steps": 1, "lr": 0.1})
    model = on_meta(lambda: imagenet.build(settings, 1000, "smoe_top1"))
    layers = [m for m in model.modules() if isinstance(m, MoE)]
    assert transformers and [layer.config.d_model for layer in layers] == [384] * 9 + [768]
    assert parameters(model) == pytest.approx(157.2e6, rel=1e-3)
    merged = on_meta(lambda: imagenet.build(settings, 1000, "namex_full"))
    assert [len(chain) for chain in chains_of(merged)] == [9, 1]


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen/Qwen1.5-MoE-A2.7B", 14.32), ("deepseek-ai/DeepSeek-V2-Lite", 15.7)]
)
def test_released_language_models(name: str, billions: float) -> None:
    pytest.importorskip("transformers")
    assert count_released(name) == pytest.approx(billions * 1e9, rel=2e-3)


def small_wikitext(system: str = "smoe_top2") -> WikiTextModel:
    settings = wikitext.reduced(wikitext.Settings(size="small", systems=[system], seeds=1))
    torch.manual_seed(0)
    return wikitext.build(settings, wikitext.size_of(settings, 20), system).eval()


@torch.no_grad()
def test_wikitext_attention_looks_back_only_and_not_at_itself() -> None:
    model = small_wikitext()
    attention, distance = model.layers[0].attention, torch.randn_like(model.distance)
    x, before = torch.randn(1, 8, 16), torch.randn(1, 8, 16)
    found = attention(x, before, distance)
    other = x.clone()
    other[:, 5] += 1.0
    moved = (attention(other, before, distance) - found).abs().amax(dim=(0, 2)) > 0
    # Token 5 changes its own query, and what later tokens see.
    assert moved.tolist() == [False] * 5 + [True] * 3
    # A value that only token 5 has does not reach token 5.
    attention.query.weight.zero_()
    distance.zero_()
    found, changed = attention(x, before, distance), attention(other, before, distance)
    assert ((changed - found).abs().amax(dim=(0, 2)) > 0).tolist() == [False] * 6 + [True] * 2


@torch.no_grad()
def test_wikitext_cache_continues_the_text() -> None:
    model = small_wikitext()
    ids = torch.randint(0, 20, (2, 16), generator=torch.Generator().manual_seed(1))
    first, cache = model(ids[:, :8], model.cache(2))
    second, _ = model(ids[:, 8:], cache)
    whole, _ = model(ids, model.cache(2))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("system", [s for s in known_systems() if s != "dense"])
def test_every_system_makes_a_layer(system: str) -> None:
    config = moe_config(system, level={"level": "sequence"}, eta=0.5, d_model=4, d_hidden=4, n_experts=4)
    assert MoE(config).config.n_experts == 4


def test_systems_begin_alike() -> None:
    settings = digits.Settings(systems=["smear"], seeds=1, optimisation={"steps": 1, "lr": 0.1})
    one, other = (
        paired_model(lambda name: digits.build(settings, name, 8), system, 3).state_dict()
        for system in ("smoe_top1", "namex_full")
    )
    common = {name: name.replace(".router.", ".router.inner.") for name in one}
    shared = [
        name for name, there in common.items() if torch.equal(one[name], other[there if there in other else name])
    ]
    assert len(shared) == len(one)


def test_merging_systems_are_one_function_at_eta_one() -> None:
    from nashsolve.integrations.experiments.recipe import find_recipe

    settings = language_model.reduced(find_recipe("mini-x4-language-model").chosen("cpu"))
    assert language_model.identity(settings, "cpu") < 1e-6


def test_patch_merging_takes_four_neighbours() -> None:
    merging = PatchMerging(4, 1, 4)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    grid = torch.arange(16.0).view(1, 16, 1)
    assert merging(grid)[0, 0].tolist() == [0.0, 1.0, 4.0, 5.0]


def test_adaptive_clusters_weigh_features_in_which_tokens_agree() -> None:
    torch.manual_seed(0)
    router = AdaptiveClusterRouter(2, 1, 1, decay=0.0)
    hidden = torch.tensor([[1.0, -4.0], [1.2, 4.0], [0.8, 0.0]])
    router.train()
    router(hidden)
    scale = router.spread / router.spread.mean()
    assert scale[0, 0] < scale[0, 1]
    with torch.no_grad():
        router.gate.weight.fill_(1.0)
        one, other = router.score(torch.eye(2))[:, 0]
    assert one > other
    untouched = router.spread.clone()
    router.eval()
    router(hidden * 100)
    assert torch.equal(router.spread, untouched)
