"""Saved beside the model: its own keys and files stay those of the plain model, in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
safetensors = pytest.importorskip("safetensors.torch")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.transformers import convert, from_pretrained, load_merging  # noqa: E402
from tests.own_memory import in_own_memory  # noqa: E402
from tests.transformers.build import MOE, build, inputs, levels  # noqa: E402

CAMEX = {"rule": "camex", "eta": 0.5}


def converted(name: str, seed: int = 0, **changes: Any) -> Any:
    model = build(name, seed)
    settings = {"merge": CAMEX, **levels(name), "chain": {}, "across_dense": name == "switch_transformers"}
    settings |= {"curvature": {"kind": "kronecker"}, "learn_eta": True} | changes
    convert(model, show=False, **settings)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.nashsolve.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("name", MOE)
def test_a_folder_holds_the_plain_model_and_merging_beside_it(name: str, original: bool, tmp_path: Path) -> None:
    plain, model, given = build(name), converted(name), inputs(name)
    plain.save_pretrained(tmp_path / "plain", save_original_format=original)
    merged = model(**given).logits
    model.save_pretrained(tmp_path / "merged", save_original_format=original)
    one, other = (safetensors.load_file(tmp_path / part / "model.safetensors") for part in ("plain", "merged"))
    assert one.keys() == other.keys()
    if name != "switch_transformers":
        assert any("experts.0." in key for key in one) == original
        assert any("experts.gate_up_proj" in key for key in one) != original
    again = in_own_memory(type(plain).from_pretrained(tmp_path / "merged")).eval()
    assert torch.equal(again(**given).logits, plain(**given).logits)
    load_merging(again, tmp_path / "merged")
    assert torch.equal(again(**given).logits, merged)
    assert torch.equal(in_own_memory(from_pretrained(tmp_path / "merged"))(**given).logits, merged)


def test_shards_and_dtypes_of_transformers_keep_working(tmp_path: Path) -> None:
    model, given = converted("qwen2_moe"), inputs("qwen2_moe")
    merged = model(**given).logits
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(in_own_memory(from_pretrained(tmp_path))(**given).logits, merged)
    half = from_pretrained(tmp_path, transformers.AutoModelForCausalLM, dtype=torch.bfloat16)
    assert half(**given).logits.dtype == torch.bfloat16


def test_warm_starts_are_saved(tmp_path: Path) -> None:
    model = converted("mixtral", chain={"bargain": {"warm_start": True}})
    model(**inputs("mixtral"))
    start = model.nashsolve.chains[0].alpha_start
    assert bool((start > 0).all())
    model.save_pretrained(tmp_path)
    assert torch.equal(from_pretrained(tmp_path).nashsolve.chains[0].alpha_start, start)


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    converted("mixtral").save_pretrained(tmp_path)
    with pytest.raises(InvalidProblem, match="saved with other weights"):
        load_merging(build("mixtral", seed=7), tmp_path)
    load_merging(build("mixtral", seed=7), tmp_path, check=False)
    with pytest.raises(InvalidProblem, match="other settings"):
        load_merging(converted("mixtral", learn_eta=False), tmp_path)
    with pytest.raises(InvalidProblem, match="saved with other weights"):
        load_merging(build("qwen3_moe"), tmp_path)


def test_folders_without_merging_and_of_other_releases_are_refused(tmp_path: Path) -> None:
    build("mixtral").save_pretrained(tmp_path)
    with pytest.raises(InvalidProblem, match="nothing that merges was saved there"):
        from_pretrained(tmp_path)
    converted("mixtral").save_pretrained(tmp_path)
    path = tmp_path / "nashsolve.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"format": 99}))
    with pytest.raises(InvalidProblem, match="another release"):
        from_pretrained(tmp_path)
    path.write_text(json.dumps(written))
    tensors = safetensors.load_file(tmp_path / "nashsolve.safetensors")
    safetensors.save_file({k: v for k, v in tensors.items() if "eta" not in k}, tmp_path / "nashsolve.safetensors")
    with pytest.raises(InvalidProblem, match=r"'layers\.0\.rule\.eta' differs"):
        from_pretrained(tmp_path)


def test_weights_loaded_without_their_merging_are_not_taken_for_the_whole(tmp_path: Path) -> None:
    model, given = converted("mixtral"), inputs("mixtral")
    model.save_pretrained(tmp_path, save_original_format=False)
    model.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"), strict=False)  # as a Trainer does
    with pytest.warns(UserWarning, match="its merging was not among them"):
        model(**given)
    model(**given)
    model.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"), strict=False)
    load_merging(model, tmp_path)
    model(**given)
    model.load_state_dict(model.state_dict())
    model(**given)


def test_pushing_would_leave_merging_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match="push_to_hub"):
        converted("mixtral").save_pretrained(tmp_path, push_to_hub=True)
