"""Merging experts: every rule, base, router rule and layout against plain NumPy, and every option changes something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve.integrations.checkpoints.errors import CheckpointRefused, SolverStopped
from nashsolve.integrations.checkpoints.grouping import agglomerate, around_seeds, spread_seeds
from nashsolve.integrations.checkpoints.planning import plan
from nashsolve.integrations.checkpoints.recipe import ExpertsRecipe
from nashsolve.integrations.checkpoints.recomputing import Recomputer
from nashsolve.integrations.checkpoints.rules import shortest
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify
from tests.checkpoints.build import (
    from_bf16,
    moe_config,
    moe_tensors,
    read_folder,
    small_moe,
    stored,
    to_bf16,
    write_file,
    write_folder,
)
from tests.checkpoints.fault import contents

ROLES = ("gate_proj", "up_proj", "down_proj")
GROUPS = [[0, 3, 5], [1], [2, 4]]


def recipe(model: Path, **more: Any) -> dict[str, Any]:
    found = {"job": "experts", "model": str(model), "groups": {"by": "given", "given": GROUPS}, "router": "mean"}
    return {**found, "dtype": "float64", **more}


def experts(tensors: dict[str, np.ndarray], layer: int, count: int = 6) -> np.ndarray:
    """(experts, parameters) of a layer."""
    name = "model.layers.{}.mlp.experts.{}.{}.weight"
    return np.stack([np.concatenate([tensors[name.format(layer, e, r)].ravel() for r in ROLES]) for e in range(count)])


def merged(tmp_path: Path, how: dict[str, Any]) -> dict[str, np.ndarray]:
    run(how, tmp_path / "out")
    found = verify(tmp_path / "out", {**how}, load=False)
    assert found.ok, found
    return read_folder(tmp_path / "out")


def base_of(kind: str, x: np.ndarray, members: list[int], source: dict[str, np.ndarray], layer: int) -> np.ndarray:
    if kind == "shared":
        name = "model.layers.{}.mlp.shared_expert.{}.weight"
        return np.concatenate([source[name.format(layer, r)].ravel() for r in ROLES])
    dominant = max(members, key=lambda e: np.linalg.norm(x[e]))
    kinds = {"zero": 0 * x[0], "layer_mean": x.mean(0), "mean": x[members].mean(0), "dominant": x[dominant]}
    return np.asarray(kinds[kind])


@pytest.mark.parametrize("base", ["layer_mean", "zero", "dominant", "shared"])
@pytest.mark.parametrize("scale", ["sum1", "exact", "unit", "match_mean"])
def test_nash_against_numpy(base: str, scale: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", first=0.5)
    source = read_folder(model)
    out = merged(tmp_path, recipe(model, base_expert=base, scale=scale, scaling_factor=0.7))
    for layer in range(2):
        x = experts(source, layer)
        found = experts(out, layer, 3)
        for slot, members in enumerate(GROUPS):
            if len(members) == 1:
                np.testing.assert_array_equal(found[slot], x[members[0]])
                continue
            start = base_of(base, x, members, source, layer)
            taus = x[members] - start
            moved = np.abs(taus).max(axis=1) > 0
            gram = taus[moved] @ taus[moved].T
            alpha = ns.solve(gram, solver="newton").alpha
            np.testing.assert_allclose(alpha * (gram @ alpha), 1, rtol=1e-9)
            step = alpha @ taus[moved]
            length = {
                "sum1": 1 / alpha.sum(),
                "exact": 1.0,
                "unit": 1 / np.linalg.norm(step),
                "match_mean": np.linalg.norm(taus[moved].mean(0)) / np.linalg.norm(step),
            }[scale]
            np.testing.assert_allclose(found[slot], start + 0.7 * length * step, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("base", ["layer_mean", "zero", "mean", "dominant"])
def test_mean_and_its_factor(base: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    source = read_folder(model)
    out = merged(tmp_path, recipe(model, merge_method="mean", base_expert=base, scaling_factor=0.5))
    x = experts(source, 1)
    start = base_of(base, x, GROUPS[0], source, 1)
    players = [e for e in GROUPS[0] if np.abs(x[e] - start).max() > 0]
    expected = start + 0.5 * (x[players].mean(0) - start)
    np.testing.assert_allclose(experts(out, 1, 3)[0], expected, rtol=1e-5, atol=1e-5)


def test_min_norm_is_the_shortest_convex_combination(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", first=0.5)
    out = merged(tmp_path, recipe(model, merge_method="min_norm", base_expert="zero"))
    x, found = experts(read_folder(model), 0), experts(out, 0, 3)
    for slot, members in enumerate(GROUPS):
        if len(members) > 1:
            v = found[slot]
            assert (x[members] @ v >= v @ v * (1 - 1e-5)).all(), "a convex combination is shorter"


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_shortest_satisfies_the_optimality_conditions(n: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((n, 8)) + 0.5
    gram = rows @ rows.T
    found = shortest(gram)
    value = found @ gram @ found
    assert (found >= 0).all() and abs(found.sum() - 1) < 1e-12
    assert (gram @ found >= value - 1e-6 * np.trace(gram)).all()


def test_utilitarian_has_the_direction_of_the_mean(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    out = merged(tmp_path, recipe(model, merge_method="utilitarian", base_expert="zero", scale="unit"))
    mean = experts(read_folder(model), 0)[GROUPS[0]].mean(0)
    np.testing.assert_allclose(experts(out, 0, 3)[0], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def calibration(path: Path, model: Path, layers: int = 2, tokens: int = 40) -> tuple[Path, dict[int, np.ndarray]]:
    rng = np.random.default_rng(3)
    inputs = {k: from_bf16(to_bf16(rng.standard_normal((tokens, 8)).astype(np.float32))) for k in range(layers)}
    write_file(path, {f"model.layers.{k}.mlp.inputs": ("F32", x) for k, x in inputs.items()})
    return path, inputs


def usage_of(source: dict[str, np.ndarray], inputs: np.ndarray, layer: int, top: int = 2) -> np.ndarray:
    logits = inputs @ source[f"model.layers.{layer}.mlp.gate.weight"].T
    chosen = np.argsort(-logits, axis=1)[:, :top]
    return np.bincount(chosen.ravel(), minlength=6) / chosen.size


@pytest.mark.parametrize("router", ["mean", "combine", "dominant", "frequency"])
def test_router_rows(router: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    source = read_folder(model)
    more: dict[str, Any] = {}
    inputs: dict[int, np.ndarray] = {}
    if router == "frequency":
        path, inputs = calibration(tmp_path / "calibration.safetensors", model)
        more["calibration"] = str(path)
    out = merged(tmp_path, recipe(model, merge_method="nash", base_expert="zero", router=router, **more))
    name = "model.layers.1.mlp.gate.weight"
    rows, x = source[name], experts(source, 1)
    for slot, members in enumerate(GROUPS):
        gram = x[members] @ x[members].T
        shares = {
            "mean": np.ones(len(members)),
            "combine": ns.solve(gram).alpha,
            "dominant": np.array([float(e == max(members, key=lambda i: np.linalg.norm(x[i]))) for e in members]),
        }
        if router == "frequency":
            shares["frequency"] = usage_of(source, inputs[1], 1)[members]
        expected = np.average(rows[members], axis=0, weights=shares[router])
        np.testing.assert_allclose(out[name][slot], expected, rtol=1e-7)


def test_frequency_and_prune_follow_usage(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    source = read_folder(model)
    path, inputs = calibration(tmp_path / "calibration.safetensors", model)
    usage, x = usage_of(source, inputs[0], 0), experts(source, 0)
    more = {"calibration": str(path), "base_expert": "zero"}
    out = merged(tmp_path, recipe(model, merge_method="frequency", **more))
    expected = np.average(x[GROUPS[0]], axis=0, weights=usage[GROUPS[0]])
    np.testing.assert_allclose(experts(out, 0, 3)[0], expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "prune").mkdir()
    out = merged(tmp_path / "prune", recipe(model, merge_method="prune", importance="usage", router="dominant", **more))
    best = max(GROUPS[0], key=lambda e: (usage[e], -e))
    np.testing.assert_array_equal(experts(out, 0, 3)[0], x[best])


def test_calibrated_outputs_against_numpy(tmp_path: Path) -> None:
    """Two experts made nearly the same function by permuting their neurons: outputs see it, weights do not."""
    tensors = moe_tensors(layers=1, dtype="F32")
    name = "model.layers.0.mlp.experts.{}.{}.weight"
    order = np.random.default_rng(0).permutation(12)
    for role in ROLES:
        values = tensors[name.format(0, role)][1]
        tensors[name.format(4, role)] = ("F32", values[:, order] if role == "down_proj" else values[order])
    model = write_folder(tmp_path / "m", tensors, moe_config())
    path, _ = calibration(tmp_path / "calibration.safetensors", model, layers=1)
    how = recipe(model, groups={"num_experts_out": 5, "on": "outputs"}, calibration=str(path))
    run(how, tmp_path / "outputs")
    report = json.loads((tmp_path / "outputs" / "nashsolve_report.json").read_text())
    assert [0, 4] in [g["members"] for g in report["layers"][0]["groups"]]
    run(recipe(model, groups={"num_experts_out": 5}), tmp_path / "weights")
    report = json.loads((tmp_path / "weights" / "nashsolve_report.json").read_text())
    assert [0, 4] not in [g["members"] for g in report["layers"][0]["groups"]]


def test_alignment_finds_a_permuted_twin(tmp_path: Path) -> None:
    """The mean of an expert and its permuted twin is the expert itself once the neurons match."""
    tensors = moe_tensors(layers=1, experts=2, dtype="F32", seed=4)
    name = "model.layers.0.mlp.experts.{}.{}.weight"
    order = np.random.default_rng(1).permutation(12)
    for role in ROLES:
        values = tensors[name.format(0, role)][1]
        tensors[name.format(1, role)] = ("F32", values[:, order] if role == "down_proj" else values[order])
    model = write_folder(tmp_path / "m", tensors, moe_config(2))
    how = {**recipe(model, merge_method="mean", base_expert="zero"), "groups": {"by": "given", "given": [[0, 1]]}}
    plain = merged(tmp_path, how)
    (tmp_path / "aligned").mkdir()
    aligned = merged(tmp_path / "aligned", {**how, "align": "neurons"})
    source = read_folder(model)
    wanted = [source[name.format(0, r)] for r in ROLES]
    orders = np.argsort(wanted[0][:, 0]), np.argsort(aligned[name.format(0, "gate_proj")][:, 0])
    for role, values in zip(ROLES, wanted, strict=True):
        found = aligned[name.format(0, role)]
        one, two = (v[:, o] if role == "down_proj" else v[o] for v, o in ((values, orders[0]), (found, orders[1])))
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert not np.allclose(np.sort(plain[name.format(0, "gate_proj")][:, 0]), np.sort(wanted[0][:, 0]))


def chain_oracle(x: list[np.ndarray], beta: complex, gamma: float) -> list[np.ndarray]:
    """Bases of the layers, by complex numbers and whole vectors."""
    base, mu, found = np.zeros_like(x[0][0]), np.zeros_like(x[0][0], dtype=complex), []
    for layer in x:
        found.append(base)
        taus = layer - base
        alpha = ns.solve(taus @ taus.T, solver="newton").alpha
        mu = beta * mu + (alpha / alpha.sum()) @ taus
        base = base + gamma * mu.real
    return found


@pytest.mark.parametrize("beta", [[], [0.5], [0.4, -0.3], [0.4, 0.1, 0.2, 0.2]])
def test_chain_with_momentum(beta: list[float], tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", layers=4, first=0.5)
    source = read_folder(model)
    how = recipe(model, base_expert="chain", chain={"gamma": 0.8, "beta": beta}, scaling_factor=0.6)
    out = merged(tmp_path, how)
    x = [experts(source, k) for k in range(4)]
    twin = complex(beta[0], np.linalg.norm(beta[1:])) if beta else 0j
    for k, base in enumerate(chain_oracle(x, twin, 0.8)):
        taus = x[k][GROUPS[0]] - base
        alpha = ns.solve(taus @ taus.T, solver="newton").alpha
        expected = base + 0.6 * (alpha / alpha.sum()) @ taus
        np.testing.assert_allclose(experts(out, k, 3)[0], expected, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("initial", ["zero", "shared", "dominant"])
def test_a_chained_expert_is_computed_again(initial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain is walked anew from the sources: with another step length verify finds every later layer wrong."""
    model = small_moe(tmp_path / "m", layers=3, first=0.5)
    chain = {"gamma": 0.8, "beta": [0.4, -0.3], "initial": initial}
    how = recipe(model, base_expert="chain", chain=chain, scaling_factor=0.6)
    merged(tmp_path, how)
    real = Recomputer._chained

    def shorter(self: Recomputer, piece: Any) -> Any:
        base, size = real(self, piece)
        return (base if piece.layer == 0 else 0.99 * base), size

    monkeypatch.setattr(Recomputer, "_chained", shorter)
    found = verify(tmp_path / "out", how, load=False, sample=10_000)
    assert not found.ok and all(".layers.0." not in problem for problem in found.problems)


def test_the_base_cancels_at_full_step(tmp_path: Path) -> None:
    """With coefficients that sum to one and factor one, no rule depends on where the chain stands."""
    model = small_moe(tmp_path / "m", layers=3)
    one = merged(tmp_path, recipe(model, merge_method="mean", base_expert="chain", chain={}))
    (tmp_path / "b").mkdir()
    two = merged(tmp_path / "b", recipe(model, merge_method="mean", base_expert="zero"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layout", ["keep", "per_expert", "fused"])
def test_layouts_hold_the_same_numbers(layout: str, fused: bool, shards: int, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", fused=fused, shards=shards)
    out = merged(tmp_path, recipe(model, layout=layout, dtype="keep"))
    plain = small_moe(tmp_path / "plain")
    (tmp_path / "p").mkdir()
    reference = merged(tmp_path / "p", recipe(plain, dtype="keep"))
    is_fused = layout == "fused" or (layout == "keep" and fused)
    for layer in range(2):
        block = f"model.layers.{layer}.mlp.experts"
        if is_fused:
            assert out[f"{block}.gate_up_proj"].shape == (3, 24, 8)
            gate_up, down = out[f"{block}.gate_up_proj"], out[f"{block}.down_proj"]
            mine = [np.concatenate([gate_up[e].ravel(), down[e].ravel()]) for e in range(3)]
        else:
            mine = list(experts(out, layer, 3))
        np.testing.assert_array_equal(mine, experts(reference, layer, 3))
    files = sorted(n for n in contents(tmp_path / "out") if n.endswith(".safetensors"))
    assert len(files) == shards or layout != "keep"


def test_a_recipe_that_changes_nothing_changes_no_byte(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", shards=3)
    how = {**recipe(model, router="keep", dtype="keep"), "groups": {"by": "given", "given": [[e] for e in range(6)]}}
    out = merged(tmp_path, how)
    source = read_folder(model)
    assert out.keys() == source.keys() and all(np.array_equal(out[n], source[n]) for n in source)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == moe_config()


def test_max_shard_size_splits_the_output(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", hidden=64, inner=96, dtype="F32")
    merged(tmp_path, recipe(model, dtype="keep", max_shard_size=2**20))
    sizes = [len(v) for n, v in contents(tmp_path / "out").items() if n.endswith(".safetensors")]
    assert len(sizes) >= 1 and all(size < 2**20 + 2**13 for size in sizes)
    (tmp_path / "b").mkdir()
    one = merged(tmp_path / "b", recipe(model, dtype="keep"))
    assert all(np.array_equal(v, one[n]) for n, v in read_folder(tmp_path / "out").items())


@pytest.mark.parametrize(("dtype", "eps"), [("bfloat16", 2**-8), ("float16", 2**-11), ("float32", 2**-23)])
def test_formats(dtype: str, eps: float, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", dtype="F32")
    wide = merged(tmp_path, recipe(model))
    (tmp_path / "b").mkdir()
    out = merged(tmp_path / "b", recipe(model, dtype=dtype))
    for name, values in wide.items():
        np.testing.assert_allclose(out[name].astype(float), values, rtol=1.5 * eps, atol=1e-7)
    assert json.loads((tmp_path / "b" / "out" / "config.json").read_text())["dtype"] == dtype


def test_overflow_is_refused(tmp_path: Path) -> None:
    tensors = moe_tensors(dtype="F32")
    tensors["lm_head.weight"][1][0, 0] = 1e6
    model = write_folder(tmp_path / "m", tensors, moe_config())
    with pytest.raises(CheckpointRefused, match=r"lm_head\.weight.*1e\+06 does not fit in F16"):
        run(recipe(model, dtype="float16"), tmp_path / "out")


@pytest.mark.parametrize("policy", ["fail", "average", "skip"])
def test_no_agreement(policy: str, tmp_path: Path) -> None:
    tensors = moe_tensors(layers=1, experts=3)
    name = "model.layers.0.mlp.experts.{}.{}.weight"
    for role in ROLES:
        tensors[name.format(1, role)] = stored(-from_bf16(tensors[name.format(0, role)][1]), "BF16")
    model = write_folder(tmp_path / "m", tensors, moe_config(3))
    how = {
        **recipe(model, base_expert="zero", on_no_agreement=policy),
        "groups": {"by": "given", "given": [[0, 1], [2]]},
    }
    if policy == "fail":
        with pytest.raises(SolverStopped, match="NO_AGREEMENT") as caught:
            run(how, tmp_path / "out")
        assert caught.value.exit_code == 3
        return
    out, x = merged(tmp_path, how), experts(read_folder(model), 0, 3)
    expected = 0 * x[0] if policy == "average" else x[0]
    np.testing.assert_allclose(experts(out, 0, 2)[0], expected, atol=1e-7)
    report = json.loads((tmp_path / "out" / "nashsolve_report.json").read_text())
    assert report["statuses"]["NO_AGREEMENT"] == 1


def test_crosscheck_is_recorded(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", layers=1)
    verdicts = {}
    for checks in ("none", "sample", "all"):
        run(recipe(model, base_expert="zero", solver={"crosscheck": checks}), tmp_path / checks)
        report = json.loads((tmp_path / checks / "nashsolve_report.json").read_text())
        verdicts[checks] = sum(r["crosscheck"].startswith("agree") for r in report["layers"][0]["groups"])
    assert verdicts == {"none": 0, "sample": 1, "all": 2}


BASE = {"merge_method": "nash", "base_expert": "zero", "groups": {"num_experts_out": 3}}


@pytest.mark.parametrize(
    "change",
    [
        {"merge_method": "mean"},
        {"merge_method": "min_norm"},
        {"merge_method": "prune"},
        {"groups": {"num_experts_out": 2}},
        {"groups": {"num_experts_out": 3, "by": "weight_cosine"}},
        {"groups": {"num_experts_out": 3, "linkage": "complete"}},
        {"groups": {"num_experts_out": 3, "linkage": "single"}},
        {"base_expert": "layer_mean"},
        {"base_expert": "dominant"},
        {"base_expert": "shared"},
        {"base_expert": "chain", "chain": {}, "scaling_factor": 0.9},
        {"base_expert": "chain", "chain": {"gamma": 0.5}, "scaling_factor": 0.9},
        {"base_expert": "chain", "chain": {"initial": "shared"}},
        {"base_expert": "chain", "chain": {"initial": "dominant"}},
        {"scale": "unit"},
        {"scale": "exact"},
        {"scale": "match_mean"},
        {"scaling_factor": 0.9},
        {"align": "neurons"},
        {"router": "dominant"},
        {"router": "combine"},
        {"top_k": 1},
        {"dtype": "float32"},
        {"layout": "fused"},
        {"max_shard_size": 2**21},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items())[:60],
)
def test_every_option_changes_the_output(change: dict[str, Any], tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", seed=2, layers=2, shards=2)
    plain = {"job": "experts", "model": str(model), "router": "mean", **BASE}
    run(plain, tmp_path / "plain")
    run({**plain, **change}, tmp_path / "changed")
    weights = [
        {n: v for n, v in contents(tmp_path / kind).items() if n.endswith((".safetensors", "config.json"))}
        for kind in ("plain", "changed")
    ]
    assert weights[0] != weights[1]


def test_every_recipe_key_is_covered_here() -> None:
    elsewhere = {"version", "job", "model", "revision", "architecture", "calibration", "importance", "solver"}
    source = Path(__file__).read_text()
    for name in set(ExpertsRecipe.model_fields) - elsewhere:
        assert f'"{name}"' in source or f"{name}=" in source, f"{name} has no test"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base_expert": "mean"}, "no agreement exists"),
        ({"base_expert": "chain"}, "go together"),
        ({"merge_method": "frequency"}, "needs calibration"),
        ({"router": "frequency"}, "needs calibration"),
        ({"importance": "usage"}, "needs calibration"),
        ({"calibration": "x"}, "nothing in the recipe uses it"),
        ({"merge_method": "mean", "scale": "unit"}, "scale belongs"),
        ({"merge_method": "prune", "scaling_factor": 0.5}, "changes nothing"),
        ({"align": "neurons", "base_expert": "layer_mean"}, "align: neurons works with"),
        ({"max_shard_size": 5}, "at least 1048576"),
        ({"top_k": 0}, "at least 1"),
        ({"solver": {"name": "newtan"}}, "Did you mean 'newton'"),
        ({"base_expert": "chain", "chain": {"beta": [1.0]}}, "below 1"),
        ({"base_expert": "chain", "chain": {"beta": [0.1] * 3}}, "0, 1, 2"),
        ({"groups": {"num_experts_out": 2, "given": [[0]]}}, "given needs"),
        ({"groups": {"by": "weight_cosine", "num_experts_out": 2, "linkage": "single"}}, "belong to by"),
        ({"groups": {"by": "hierarchical"}}, "num_experts_out is missing"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_recipes_that_contradict_themselves(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    how = {
        "job": "experts",
        "model": str(small_moe(tmp_path / "m")),
        "router": "mean",
        "groups": {"num_experts_out": 2},
    }
    with pytest.raises(CheckpointRefused, match=match):
        plan({**how, **change})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"groups": {"num_experts_out": 7}}, "there are 6 experts"),
        ({"groups": {"by": "given", "given": [[0, 1], [2, 3, 4]]}}, "each of the 6 experts once"),
        ({"groups": {"by": "given", "given_by_layer": [GROUPS]}}, "has 1 layers, the checkpoint 2"),
        ({"groups": {"by": "given", "given_by_layer": [GROUPS, [[0, 1, 2], [3, 4, 5]]]}}, r"\[2, 3\] experts"),
        ({"router": "keep"}, "as many experts as before"),
        ({"groups": {"num_experts_out": 1}}, "use zero, shared, dominant or chain"),
        ({"top_k": 5}, "only 3 experts can be chosen"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_plans_say_what_is_unsupported(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    how = {
        "job": "experts",
        "model": str(small_moe(tmp_path / "m")),
        "router": "mean",
        "groups": {"num_experts_out": 3},
    }
    made = plan({**how, **change})
    assert len(made.unsupported) == 1
    with pytest.raises(CheckpointRefused, match=match):
        run({**how, **change}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_grouping_by_hand() -> None:
    """Points on a line at 0, 1, 10, 11, 30."""
    place = np.array([0.0, 1.0, 10.0, 11.0, 30.0])
    apart = np.abs(place[:, None] - place)
    assert agglomerate(apart, 3, "average") == [[0, 1], [2, 3], [4]]
    assert agglomerate(apart, 2, "single") == [[0, 1, 2, 3], [4]]
    stretched = np.array([0.0, 4.0, 9.0, 15.0])
    between = np.abs(stretched[:, None] - stretched)
    assert agglomerate(between, 2, "single") == [[0, 1, 2], [3]]
    assert agglomerate(between, 2, "complete") == [[0, 1], [2, 3]]
    seeds = spread_seeds(-apart, 2)
    assert seeds == [2, 4] and around_seeds(-apart, seeds) == [[0, 1, 2, 3], [4]]


def test_paths_of_a_plan_say_what_will_be(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", shards=2)
    made = plan(recipe(model, dtype="keep", merge_method="nash"))
    run(recipe(model, dtype="keep"), tmp_path / "out")
    sizes = {n: len(v) for n, v in contents(tmp_path / "out").items() if n.endswith(".safetensors")}
    assert made.to_dict()["output_files"] == sizes
    assert (made.to_dict()["experts_before"], made.to_dict()["experts_after"]) == (6, 3)
    assert made.problems == 6 and made.problem_sizes == "1 to 3 players"
    assert made.expert_bytes == (6 * 2 * 288 * 2, 3 * 2 * 288 * 2)


def test_router_usage_makes_the_most_used_experts_the_seeds(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    source = read_folder(model)
    path, inputs = calibration(tmp_path / "calibration.safetensors", model)
    how = recipe(model, groups={"num_experts_out": 3, "by": "router_usage"}, calibration=str(path))
    run(how, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "nashsolve_report.json").read_text())
    for layer in range(2):
        groups = [r["members"] for r in report["layers"][layer]["groups"]]
        usage = usage_of(source, inputs[layer], layer)
        np.testing.assert_allclose(report["layers"][layer]["usage"], usage)
        seeds = sorted(range(6), key=lambda e: (-usage[e], e))[:3]
        assert sorted(e for group in groups for e in group) == list(range(6))
        assert all(sum(s in group for s in seeds) == 1 for group in groups)
        rows = source[f"model.layers.{layer}.mlp.gate.weight"]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for group in groups:
            seed = next(s for s in seeds if s in group)
            for e in set(group) - {seed}:
                assert unit[e] @ unit[seed] >= max(unit[e] @ unit[s] for s in seeds) - 1e-9


def test_groups_of_each_layer_and_progress_to_the_end(tmp_path: Path) -> None:
    by_layer = [[[0, 1, 2], [3, 4, 5]], [[5, 0], [1, 2, 3, 4]]]
    model = small_moe(tmp_path / "m")
    seen: list[tuple[int, int]] = []
    how = recipe(model, groups={"by": "given", "given_by_layer": by_layer})
    run(how, tmp_path / "out", progress=lambda phase, done, total, line: seen.append((done, total)))
    report = json.loads((tmp_path / "out" / "nashsolve_report.json").read_text())
    found = [[r["members"] for r in layer["groups"]] for layer in report["layers"]]
    assert found == [[sorted(group) for group in layer] for layer in by_layer]
    assert [d for d, _ in seen] == sorted(d for d, _ in seen) and seen[-1][0] == seen[-1][1] > 0
