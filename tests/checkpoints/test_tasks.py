"""Task vectors: every rule against plain NumPy, and recipes of mergekit read as what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve.integrations.checkpoints import memory
from nashsolve.integrations.checkpoints.errors import CheckpointRefused
from nashsolve.integrations.checkpoints.planning import plan
from nashsolve.integrations.checkpoints.recipe import TaskRecipe, load_recipe
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify
from tests.checkpoints.build import moe_tensors, read_folder, write_folder

WEIGHTS = (1.0, 2.0, 0.5)
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Any]:
    """A base and three fine-tunes in float32; the third did not touch the first layer."""
    base = moe_tensors(dtype="F32", shared=False)
    folders = {"base": write_folder(tmp_path / "base", base, CONFIG, 2)}
    for i in range(3):
        rng = np.random.default_rng(i + 1)
        tuned = {}
        for name, (dtype, values) in base.items():
            still = i == 2 and ".0." in name
            step = 0 * values if still else 0.1 * rng.standard_normal(values.shape) + 0.05
            tuned[name] = (dtype, (values + step).astype(np.float32))
        folders[f"t{i}"] = write_folder(tmp_path / f"t{i}", tuned, CONFIG)
    return folders


def recipe(family: dict[str, Any], **more: Any) -> dict[str, Any]:
    models = [{"model": str(family[f"t{i}"]), "weight": WEIGHTS[i]} for i in range(3)]
    base = {"job": "task_vectors", "base_model": str(family["base"]), "models": models, "dtype": "float64"}
    return {**base, **more}


def merged(tmp_path: Path, how: dict[str, Any]) -> dict[str, np.ndarray]:
    run(how, tmp_path / "out")
    found = verify(tmp_path / "out", how, load=False)
    assert found.ok, found
    return read_folder(tmp_path / "out")


def taus_of(family: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    base = {n: v.astype(float) for n, v in read_folder(family["base"]).items()}
    tuned = [read_folder(family[f"t{i}"]) for i in range(3)]
    return base, [{n: t[n].astype(float) - base[n] for n in base} for t in tuned]


def unit(name: str, per: str) -> str:
    parts = name.split(".")
    layer = ".".join(parts[:3]) if parts[1] == "layers" else "rest"
    return {"global": "all", "tensor": name, "layer": layer}[per]


@pytest.mark.parametrize("per", ["global", "layer", "tensor"])
@pytest.mark.parametrize("disagreement", ["zero", "mean"])
def test_nash(per: str, disagreement: str, family: dict[str, Any], tmp_path: Path) -> None:
    out = merged(tmp_path, recipe(family, per=per, disagreement=disagreement, scaling_factor=1.5))
    base, taus = taus_of(family)
    for u in {unit(n, per) for n in base}:
        names = [n for n in base if unit(n, per) == u]
        rows = np.stack([np.concatenate([t[n].ravel() for n in names]) for t in taus])
        moved = np.abs(rows).max(axis=1) > 0
        weights = np.array(WEIGHTS)[moved]
        how: dict[str, Any] = {}
        if disagreement == "mean":
            mean = weights / weights.sum() @ rows[moved]
            how = {"disagreement": rows[moved] @ mean, "radius": 2 * np.linalg.norm(mean)}
        solution = ns.solve(ns.BargainingProblem(vectors=rows[moved], weights=weights, **how))
        share = solution.coefficients / solution.coefficients.sum()
        for name in names:
            step = sum(c * t[name] for c, t in zip(share, np.array(taus, dtype=object)[moved], strict=True))
            np.testing.assert_allclose(out[name], base[name] + 1.5 * step, rtol=1e-5, atol=1e-6)


def test_mean_and_task_arithmetic(family: dict[str, Any], tmp_path: Path) -> None:
    base, taus = taus_of(family)
    total = sum(WEIGHTS)
    for method, normalize, factor in (("mean", True, 1 / total), ("task_arithmetic", False, 1.0)):
        (tmp_path / method).mkdir()
        more = {} if normalize else {"normalize": False}
        out = merged(tmp_path / method, recipe(family, merge_method=method, scaling_factor=0.5, **more))
        for name in base:
            expected = base[name] + 0.5 * factor * sum(w * t[name] for w, t in zip(WEIGHTS, taus, strict=True))
            np.testing.assert_allclose(out[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("density", [1.0, 0.4])
def test_ties(density: float, normalize: bool, family: dict[str, Any], tmp_path: Path) -> None:
    out = merged(tmp_path, recipe(family, merge_method="ties", density=density, normalize=normalize))
    base, taus = taus_of(family)
    for name in base:
        kept = []
        for w, tau in zip(WEIGHTS, taus, strict=True):
            flat = np.abs(tau[name]).astype(np.float32).ravel()
            keep = max(1, int(density * flat.size))
            cut = np.sort(flat)[-keep]
            kept.append(w * np.where(np.abs(tau[name]).astype(np.float32) >= cut, tau[name], 0))
        sign = np.sign(sum(kept))
        agree = [(np.sign(k) == sign) & (k != 0) for k in kept]
        step = sum(np.where(a, k, 0) for a, k in zip(agree, kept, strict=True))
        if normalize:
            weight = sum(np.where(a, w, 0) for a, w in zip(agree, WEIGHTS, strict=True))
            step = np.divide(step, weight, out=np.zeros_like(step), where=weight > 0)
        np.testing.assert_allclose(out[name], base[name] + step, rtol=1e-4, atol=1e-5)


def test_dare_keeps_the_mean_and_follows_its_seed(family: dict[str, Any], tmp_path: Path) -> None:
    base, taus = taus_of(family)
    one_model = [{"model": str(family["t0"])}]
    outs = []
    for k, seed in enumerate((1, 1, 2)):
        how = recipe(family, merge_method="dare", density=0.3, seed=seed, models=one_model, normalize=False)
        run(how, tmp_path / str(k))
        outs.append(read_folder(tmp_path / str(k)))
    steps = np.concatenate([((outs[0][n] - base[n]) / taus[0][n]).ravel() for n in base])
    assert set(np.round(steps, 2)) <= {0.0, 3.33, 3.34, 3.32}
    share = (steps > 1).mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.21 / len(steps))
    assert all(np.array_equal(outs[0][n], outs[1][n]) for n in base)
    assert any(not np.array_equal(outs[0][n], outs[2][n]) for n in base)


def test_results_do_not_depend_on_the_chunk(family: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    how = recipe(family, merge_method="ties", density=0.4)
    run(how, tmp_path / "a")
    monkeypatch.setattr(memory, "CHUNK", 16)
    run(how, tmp_path / "b")
    one, two = read_folder(tmp_path / "a"), read_folder(tmp_path / "b")
    assert all(np.array_equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    "change",
    [
        {"merge_method": "mean"},
        {"merge_method": "min_norm"},
        {"merge_method": "utilitarian"},
        {"merge_method": "ties", "density": 0.5},
        {"merge_method": "dare", "density": 0.5},
        {"merge_method": "dare_ties", "density": 0.5},
        {"merge_method": "task_arithmetic", "normalize": False},
        {"per": "global"},
        {"per": "tensor"},
        {"disagreement": "mean"},
        {"disagreement": "mean", "radius": 1.1},
        {"scale": "exact"},
        {"scale": "unit"},
        {"scale": "match_mean"},
        {"scaling_factor": 2.0},
        {"dtype": "float16"},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()),
)
def test_every_option_changes_the_output(change: dict[str, Any], family: dict[str, Any], tmp_path: Path) -> None:
    run(recipe(family), tmp_path / "plain")
    run(recipe(family, **change), tmp_path / "changed")
    one, two = (read_folder(tmp_path / kind) for kind in ("plain", "changed"))
    assert any(not np.array_equal(one[n], two[n]) for n in one)
    if "radius" in change:
        run(recipe(family, disagreement="mean"), tmp_path / "other")
        other = read_folder(tmp_path / "other")
        assert any(not np.array_equal(two[n], other[n]) for n in other)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"merge_method": "mean", "disagreement": "mean"}, "disagreement belongs"),
        ({"radius": 3.0}, "radius belongs"),
        ({"density": 0.5}, "density belongs"),
        ({"merge_method": "ties", "scale": "unit"}, "scale belongs"),
        ({"merge_method": "ties", "per": "global"}, "per belongs"),
        ({"merge_method": "mean", "normalize": False}, "normalize belongs"),
        ({"seed": 3}, "seed belongs"),
        ({"models": []}, "at least 1"),
        ({"models": [{"model": "x", "weight": -1}]}, "greater than 0"),
        ({"models": [{"modle": "x"}]}, "Did you mean 'model'"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_recipes_that_contradict_themselves(change: dict[str, Any], match: str, family: dict[str, Any]) -> None:
    with pytest.raises(CheckpointRefused, match=match):
        load_recipe(recipe(family, **change))


@pytest.mark.parametrize("kind", ["missing", "shape", "integers"])
def test_models_must_match(kind: str, family: dict[str, Any], tmp_path: Path) -> None:
    tensors = moe_tensors(dtype="F32", shared=False)
    if kind == "missing":
        del tensors["lm_head.weight"]
    elif kind == "shape":
        tensors["lm_head.weight"] = ("F32", np.zeros((3, 3), np.float32))
    else:
        for k, folder in enumerate(("base", "t0", "t1")):
            some = moe_tensors(dtype="F32", shared=False)
            write_folder(family[folder], {**some, "steps": ("I64", np.array([k == 2], np.int64))}, CONFIG)
            (family[folder] / "model.safetensors.index.json").unlink(missing_ok=True)
            for path in family[folder].glob("model-0*"):
                path.unlink()
        how = recipe(family, models=[{"model": str(family["t0"])}, {"model": str(family["t1"])}], merge_method="mean")
        assert "must be equal in all models" in " ".join(plan(how).statements)
        with pytest.raises(CheckpointRefused, match="'steps' is not floating-point and differs"):
            run(how, tmp_path / "out")
        return
    write_folder(family["t1"], tensors, CONFIG)
    with pytest.raises(
        CheckpointRefused, match=r"t1 lacks 1 tensors: 'lm_head|\(16, 8\) in base and F32 \(3, 3\) in t1"
    ):
        plan(recipe(family))


MERGEKIT = """
models:
  - model: {base}
  - model: {t0}
    parameters: {{weight: 1.0, density: 0.5}}
  - model: {t1}
    parameters: {{weight: 2.0}}
merge_method: ties
base_model: {base}
parameters: {{normalize: true, density: 0.4, lambda: 0.8, int8_mask: true}}
dtype: float32
"""


def test_mergekit_recipe(family: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mergekit.yaml"
    path.write_text(MERGEKIT.format(**family))
    ours = load_recipe(path)
    assert isinstance(ours, TaskRecipe)
    assert (ours.merge_method, ours.normalize, ours.scaling_factor, ours.dtype) == ("ties", True, 0.8, "float32")
    assert [(m.weight, m.density) for m in ours.models] == [(1.0, 0.5), (2.0, 0.4)]
    assert any("int8_mask has no effect" in note for note in plan(path).statements)
    run(path, tmp_path / "out")
    models = [
        {"model": str(family["t0"]), "weight": 1.0, "density": 0.5},
        {"model": str(family["t1"]), "weight": 2.0, "density": 0.4},
    ]
    how = recipe(family, merge_method="ties", models=models, scaling_factor=0.8, dtype="float32")
    run(how, tmp_path / "ours")
    one, two = read_folder(tmp_path / "out"), read_folder(tmp_path / "ours")
    assert all(np.array_equal(one[n], two[n]) for n in one)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model:" in card and "- merge" in card and "read as a mergekit recipe" in card


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"slices": []}, "slices"),
        ({"merge_method": "tise"}, "Did you mean 'ties'"),
        ({"merge_method": "slerp"}, "choose one of linear"),
        ({"base_model": None}, "base_model is missing"),
        ({"tokenizer_source": "union"}, "tokenizer_source"),
        ({"parameters": {"weight": [0, 1]}}, "one value for all layers"),
        ({"parameters": {"wieght": 1.0}}, "Did you mean 'weight'"),
        ({"models": [{"model": "x", "parameters": {"density": 0.5}}], "merge_method": "linear"}, "no effect on linear"),
        ({"parameters": {"normalize": False}, "merge_method": "linear"}, "no counterpart"),
        ({"models": 3}, "list of models"),
        ({"models": [3]}, "mapping with the key model"),
        ({"models": [{"model": "b", "parameters": {"weight": 1.0}}]}, "takes no parameters"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_mergekit_recipes_that_are_refused(change: dict[str, Any], match: str) -> None:
    plain = {"models": [{"model": "a"}], "base_model": "b", "merge_method": "ties"}
    with pytest.raises(CheckpointRefused, match=match):
        load_recipe({**plain, **change})


def test_report_of_a_merge_of_fine_tunes(family: dict[str, Any], tmp_path: Path) -> None:
    run(recipe(family), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "nashsolve_report.json").read_text())
    assert report["models"] == ["t0", "t1", "t2"] and report["statuses"]["SOLVED"] == 3
    first = next(u for u in report["units"] if u["unit"] == "model.layers.0")
    assert first["coefficients"][2] == 0.0 and abs(sum(first["coefficients"]) - 1) < 1e-12
