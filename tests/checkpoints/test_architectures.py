"""Every supported family: models made by transformers are merged, load again with every key, and compute."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nashsolve.integrations.checkpoints.adapters import builtin, choose_adapter, find_layers
from nashsolve.integrations.checkpoints.errors import CheckpointRefused
from nashsolve.integrations.checkpoints.folder import open_checkpoint
from nashsolve.integrations.checkpoints.inspection import inspect
from nashsolve.integrations.checkpoints.planning import plan
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify
from tests.checkpoints.build import moe_config, moe_tensors, read_folder, small_moe, write_folder
from tests.own_memory import in_own_memory

COMMON = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_moe": (
        "Qwen2Moe",
        {**COMMON, "num_experts": 8, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_moe": ("Qwen3Moe", {**COMMON, "num_experts": 8, "moe_intermediate_size": 8, "head_dim": 8}),
    "olmoe": ("Olmoe", {**COMMON, "num_experts": 8}),
    "mixtral": ("Mixtral", {**COMMON, "num_local_experts": 8}),
    "deepseek_v2": ("DeepseekV2", {**COMMON, **LATENT, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("DeepseekV3", {**COMMON, **LATENT}),
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    found = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found.utils.logging.disable_progress_bar()
    return found


def make(transformers: Any, family: str, folder: Path, **more: Any) -> tuple[Any, Path]:
    import torch

    torch.manual_seed(0)
    if family == "switch_transformers":
        config = transformers.SwitchTransformersConfig(
            num_experts=8, d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=2, num_sparse_encoder_layers=1,
            num_decoder_layers=2, num_sparse_decoder_layers=1, vocab_size=64, decoder_start_token_id=0,
        )  # fmt: skip
        model = transformers.SwitchTransformersForConditionalGeneration(config)
    else:
        name, settings = FAMILIES[family]
        config = getattr(transformers, f"{name}Config")(**settings)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    if family == "deepseek_v3":
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.copy_(torch.arange(8) / 100)
    model.eval().save_pretrained(folder, **more)
    return model, folder


def logits(transformers: Any, model: Any) -> np.ndarray:
    import torch

    tokens = torch.arange(24).reshape(2, 12) % 64
    extra = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return np.asarray(model(input_ids=tokens, **extra).logits.numpy())


def load(transformers: Any, like: Any, folder: Path) -> Any:
    model, info = type(like).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return in_own_memory(model).eval()


def recipe(folder: Path, kept: int, **more: Any) -> dict[str, Any]:
    base = {"job": "experts", "model": str(folder), "groups": {"num_experts_out": kept}, "router": "mean"}
    return {**base, "base_expert": "zero", **more}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", [*FAMILIES, "switch_transformers"])
def test_families(family: str, transformers: Any, tmp_path: Path) -> None:
    model, folder = make(transformers, family, tmp_path / "m")
    found = inspect(folder)
    assert (found.architecture, found.experts, found.layout) == (family, 8, "per_expert")
    same = recipe(folder, 8, router="keep")
    run(same, tmp_path / "same")
    again = load(transformers, model, tmp_path / "same")
    np.testing.assert_array_equal(logits(transformers, again), logits(transformers, model))
    run(recipe(folder, 4), tmp_path / "out")
    half = load(transformers, model, tmp_path / "out")
    assert np.isfinite(logits(transformers, half)).all()
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in model.parameters())
    assert verify(tmp_path / "out", recipe(folder, 4), sample=1000, load=True).ok
    if family.startswith("deepseek"):
        assert (half.config.n_group, half.config.topk_group, half.config.num_experts_per_tok) == (2, 1, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_fused_files_and_one_expert(family: str, transformers: Any, tmp_path: Path) -> None:
    model, folder = make(transformers, family, tmp_path / "m")
    run(recipe(folder, 8, router="keep", layout="fused"), tmp_path / "fused")
    assert inspect(tmp_path / "fused").layout == "fused"
    run(recipe(tmp_path / "fused", 8, router="keep", layout="per_expert"), tmp_path / "back")
    again = load(transformers, model, tmp_path / "back")
    np.testing.assert_array_equal(logits(transformers, again), logits(transformers, model))
    one, other = read_folder(folder), read_folder(tmp_path / "back")
    assert one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
    run(recipe(folder, 1), tmp_path / "dense")
    dense = load(transformers, model, tmp_path / "dense")
    assert np.isfinite(logits(transformers, dense)).all() and dense.config.num_experts_per_tok == 1


def test_deepseek_limits_say_what_cannot_be(transformers: Any, tmp_path: Path) -> None:
    _, folder = make(transformers, "deepseek_v3", tmp_path / "v3")
    assert "does not divide 3" in plan(recipe(folder, 3)).unsupported[0]
    assert "two best experts" in plan(recipe(folder, 2)).unsupported[0]
    made = plan(recipe(folder, 4))
    assert not made.unsupported and "within the 2 routing groups" in " ".join(made.statements)
    run(recipe(folder, 4), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "nashsolve_report.json").read_text())
    for layer in report["layers"]:
        for record in layer["groups"]:
            assert len({e // 4 for e in record["members"]}) == 1, "a group crosses the routing groups"
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    before, after = read_folder(folder)[bias], read_folder(tmp_path / "out")[bias]
    expected = [before[r["members"]].mean() for r in report["layers"][0]["groups"]]
    np.testing.assert_allclose(after, expected, rtol=1e-6)


def deepseek_v1(folder: Path) -> Path:
    """A checkpoint of a family that transformers has no code for: a dense first layer, fused shared experts."""
    tensors = {}
    for name, value in moe_tensors(layers=2, experts=4).items():
        if ".layers.0.mlp." in name or "shared_expert_gate" in name:
            continue
        tensors[name.replace("shared_expert.", "shared_experts.")] = value
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["lm_head.weight"]
    config = {"model_type": "deepseek", "n_routed_experts": 4, "num_experts_per_tok": 3, "first_k_dense_replace": 1}
    return write_folder(folder, tensors, {**config, "auto_map": {"AutoModel": "x.Y"}, "norm_topk_prob": False})


def test_deepseek_v1_by_its_files_alone(tmp_path: Path) -> None:
    folder = deepseek_v1(tmp_path / "m")
    found = inspect(folder)
    assert (found.architecture, found.moe_layers, found.shared) == ("deepseek_moe", 1, True)
    how = recipe(folder, 2, base_expert="shared")
    made = plan(how)
    assert any("does not renormalise" in text for text in made.statements)
    run(how, tmp_path / "out")
    assert verify(tmp_path / "out", how, load=False).ok
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["n_routed_experts"], config["num_experts_per_tok"]) == (2, 2)


OWN = """
name: mine
model_types: [my_moe]
block: net.blocks.*.ffn
expert: expert_{expert}.{matrix}
matrices: {up: first, down: second}
router: router
config: {num_experts: [experts]}
"""


def test_architecture_of_a_user(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {"net.blocks.0.ffn.router": ("F32", rng.standard_normal((3, 4)))}
    for e in range(3):
        tensors[f"net.blocks.0.ffn.expert_{e}.first"] = ("F32", rng.standard_normal((5, 4)))
        tensors[f"net.blocks.0.ffn.expert_{e}.second"] = ("F32", rng.standard_normal((4, 5)))
    folder = write_folder(tmp_path / "m", tensors, {"model_type": "my_moe", "experts": 3})
    with pytest.raises(CheckpointRefused, match="'my_moe' has no adapter"):
        plan(recipe(folder, 2))
    (tmp_path / "mine.yaml").write_text(OWN)
    how = recipe(folder, 2, architecture=str(tmp_path / "mine.yaml"))
    run(how, tmp_path / "out")
    assert verify(tmp_path / "out", how, load=False).ok
    assert json.loads((tmp_path / "out" / "config.json").read_text())["experts"] == 2
    (tmp_path / "mine.yaml").write_text(OWN.replace("matrices", "matrixes"))
    with pytest.raises(CheckpointRefused, match="Did you mean 'matrices'"):
        plan(how)


def test_adapters_are_short_and_distinct() -> None:
    kinds = [kind for adapter in builtin() for kind in adapter.model_types]
    assert len(kinds) == len(set(kinds)) >= 8
    folder = Path(__import__("nashsolve").__file__).parent / "integrations/checkpoints/architectures"
    assert all(len(p.read_text().splitlines()) <= 18 for p in folder.glob("*.yaml"))


def test_layers_are_ordered_by_number(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(small_moe(tmp_path / "m", layers=12, experts=2, hidden=2, inner=2))
    layers = find_layers(checkpoint, choose_adapter(checkpoint.config))
    assert [int(y.prefix.split(".")[2]) for y in layers] == list(range(12))


def test_unknown_tensors_below_experts_are_refused(tmp_path: Path) -> None:
    tensors = moe_tensors(layers=1)
    tensors["model.layers.0.mlp.experts.0.up_proj.bias"] = ("F32", np.zeros(12, np.float32))
    with pytest.raises(CheckpointRefused, match=r"does not know.*up_proj\.bias"):
        plan(recipe(write_folder(tmp_path / "m", tensors, moe_config()), 3))
