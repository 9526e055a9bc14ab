"""X12, X13, X14: two steps of each, and what their numbers must obey whatever was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("safetensors")

import torch

from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.studies import _merging, cost_table, output_maps, step_sweep, token_bargain
from nashsolve.integrations.experiments.studies._small_model import REDUCED, Sizes, held_out_bits, transformer
from nashsolve.integrations.experiments.study import Claim, load_study

SIZES = Sizes(**REDUCED)


def ran(name: str, folder: Path) -> tuple[list[dict], list[Claim], dict]:
    """Records, claims and pictures of a reduced run."""
    pytest.importorskip("matplotlib")
    study, book = load_study(name), Book(folder)
    study.run(study.reduced(study.Settings()), book)
    assert not book.left()
    return book.records(), study.claims(book.records()), study.pictures(book.records(), book.curves())  # type: ignore[attr-defined]


@pytest.mark.parametrize("momentum", ["0.9", "quaternion"])
def test_chains_break_where_the_exact_region_ends(momentum: str) -> None:
    found = step_sweep.measured_break(momentum, layers=160)
    assert found == pytest.approx(step_sweep.predicted_break(momentum), rel=0.02)


def test_step_sweep(tmp_path: Path) -> None:
    records, claims, pictures = ran("step_sweep", tmp_path)
    sweep = [r for r in records if r["kind"] == "sweep"]
    assert len(sweep) == 2 * len(step_sweep.VARIANTS)
    assert all(r["largest_sum"] == pytest.approx(1.0) for r in sweep if r["variant"] != "exact")
    assert len({r["bits"] for r in sweep if r["gamma"] == 1.0}) > 2
    assert len(claims) == 2 and set(pictures) == {"gamma"}


def test_a_training_that_ended_in_nan_is_the_worst_one() -> None:
    rows = [{"kind": "sweep", "variant": "uniform", "gamma": g, "bits": b} for g, b in ((1.0, 2.0), (4.0, None))]
    assert step_sweep.means(rows)["uniform"] == {1.0: 2.0, 4.0: float("inf")}


def test_cost_table(tmp_path: Path) -> None:
    records, claims, pictures = ran("cost_table", tmp_path)
    [rates] = [r["tokens_per_second"] for r in records if r["kind"] == "timings"]
    assert all(len(row) == 2 and min(row) > 0 for row in rates.values())
    assert claims and set(pictures) == {"throughput"}


def test_the_interval_of_a_median_ignores_an_outlier() -> None:
    values = [0.01 * k for k in range(15)]
    middle, low, high = cost_table.median_interval(values)
    assert (middle, low, high) == pytest.approx((0.07, 0.03, 0.11))
    assert cost_table.median_interval([*values[:-1], 1e9])[2] == high


def test_output_maps(tmp_path: Path) -> None:
    records, claims, pictures = ran("output_maps", tmp_path)
    for record in records:
        for cosines in map(np.asarray, record["maps"]):
            assert np.allclose(cosines, cosines.T) and np.allclose(np.diag(cosines), 1, atol=1e-3)
        assert min(record["max_vio"]) >= 0
    assert len(claims) == 3 and set(pictures) == {"maps", "load_and_merging"}
    assert output_maps.tables(records)[0].markdown().count("\n| ") >= 3


def routed(seed: int = 0) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    torch.manual_seed(seed)
    model = transformer(output_maps.layer_of("none", output_maps.Settings(sizes=REDUCED)), SIZES).eval()
    return model, output_maps.look(model, SIZES, "cpu")[0]


def test_equal_experts_merge_into_themselves() -> None:
    model, counts = routed()
    with torch.no_grad():
        for layer in model.layers():
            for parameter in layer.experts.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter).clone())
    before = held_out_bits(model, SIZES)
    for how in ("mean", "usage", "nash"):
        assert torch.allclose(held_out_bits(_merging.into_one(model, how, counts), SIZES), before, atol=1e-5)


def test_merging_keeps_the_trained_parts_and_not_the_original() -> None:
    model, counts = routed()
    original = held_out_bits(model, SIZES)
    merged = _merging.over_base(model, {"solver": "newton"}, 0.5, seed=0)
    assert torch.equal(merged.layers()[1].router.gate.weight, model.layers()[1].router.gate.weight)
    assert not torch.allclose(held_out_bits(merged, SIZES), original)
    assert not torch.allclose(held_out_bits(_merging.into_one(model, "mean", counts), SIZES), original)
    assert torch.equal(held_out_bits(model, SIZES), original)


def test_token_bargain(tmp_path: Path) -> None:
    study = load_study("token_bargain")
    book = Book(tmp_path)
    study.run(study.reduced(study.Settings()), book)
    bits = {(r["rule"], r["seed"]): r["bits"] for r in book.records()}
    assert len(bits) == 6 and len(set(bits.values())) == 6
    assert len(study.claims(book.records())) == 2


def test_every_rule_begins_with_the_same_numbers() -> None:
    settings = token_bargain.Settings(sizes=REDUCED)
    top, bargain = (token_bargain.start(rule, 2, 0, settings) for rule in ("top", "bargain over parameters"))
    shared = dict(bargain.named_parameters())
    assert all(torch.equal(tensor, shared[name]) for name, tensor in top.named_parameters())
    assert len(shared) > len(dict(top.named_parameters()))


def test_automatic_momentum(tmp_path: Path) -> None:
    records, claims, pictures = ran("automatic_momentum", tmp_path)
    of_seed = {r["momentum"]: r for r in records if r["seed"] == 0}
    assert len({r["bits"] for r in of_seed.values()}) == 5
    assert of_seed["automatic"]["radius"] == min(r["radius"] for r in of_seed.values())
    assert min(r[k] for r in records for k in ("first_move", "last_move")) > 0
    assert len(claims) == 3 and set(pictures) == {"moves"}
