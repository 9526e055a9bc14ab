"""X2: areas and momenta of the tables as computed independently, identities to rounding, the counter-example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from nashsolve.integrations.experiments.studies import _appendix, stability_region
from nashsolve.integrations.experiments.studies.stability_region import ROUNDING
from nashsolve.integrations.torch_moe import stability
from tests.experiments.studies.study_run import records_of


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return records_of("stability_region", tmp_path_factory.mktemp("x2"), grid=401, scan=20_000)


def only(records: list[dict], kind: str) -> dict:
    [found] = [r for r in records if r["kind"] == kind]
    return found


@pytest.mark.parametrize(
    ("step", "exact", "fujiwara", "published"),
    [(0.1, 3.001, 0.009, 0.003), (0.5, 2.531, 0.232, 0.232), (1.0, 2.043, 0.381, 0.437), (2.0, 1.237, 0.154, 0.154)],
)
def test_areas_are_those_of_the_check(
    records: list[dict], step: float, exact: float, fujiwara: float, published: float
) -> None:
    [row] = [r for r in records if r["kind"] == "area" and r["step"] == step]
    found = row["exact"], row["fujiwara_corrected"], row["condition_published"]
    assert np.allclose(found, (exact, fujiwara, published), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "largest", "at_one"),
    [("none", 2.0, 0.0), ("0.9", 3.8, 0.949), ("0.9 at 30 degrees", 1.561, 0.992), ("quaternion", 0.2536, 1.036)],
)
def test_momenta_of_the_tables(records: list[dict], name: str, largest: float, at_one: float) -> None:
    [row] = [r for r in records if r["key"] == f"beta/{name}"]
    assert round(row["largest_stable_step"], 3) == round(largest, 3) or round(row["largest_stable_step"], 4) == largest
    assert round(row["radius_at_1.0"], 3) == at_one


def test_identities_hold_to_rounding_and_the_phase_sign_exactly(records: list[dict]) -> None:
    found = only(records, "identities")
    assert found["phase_sign"] == 0.0
    assert max(found["polynomial"], found["published_shift"], found["quaternion_factors"]) < ROUNDING


def test_the_published_condition_certifies_an_unstable_chain(records: list[dict]) -> None:
    counter = only(records, "counter-example")
    assert counter["certified"] and round(counter["radius"], 4) == 1.0082
    assert only(records, "scan")["certified_unstable"] > 0


def test_the_heavy_ball_is_the_momentum_for_real_numbers_only(records: list[dict]) -> None:
    found = only(records, "identities")
    assert found["heavy_ball_real"] < ROUNDING < 0.1 < found["heavy_ball_complex"]


def test_the_correct_bound_is_true_and_cautious(records: list[dict]) -> None:
    assert only(records, "scan")["largest_modulus_by_correct_bound"] < 0.5
    [row] = [r for r in records if r["kind"] == "area" and r["step"] == 1.0]
    assert 0.3 < row["condition_differs_from_region"] < 0.34 and 0.02 < row["region_published_unstable"] < 0.04


def test_closed_form_and_eigenvalues_never_differ(records: list[dict]) -> None:
    assert only(records, "scan")["mismatches"] == 0


def test_the_identities_can_fail() -> None:
    """A quaternion with a wrong twin has another polynomial."""
    q = (0.8, 0.3, 0.3, 0.3)
    wrong = np.convolve(stability.characteristic_polynomial(0.8 + 0.3j, 1.0), [1, -1.6, 0.91])
    assert np.abs(_appendix.polynomial(_appendix.quaternion_matrix(q, 1.0)) - wrong).max() > 0.01


def test_claims_and_picture(records: list[dict], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [c.verdict for c in stability_region.claims(records)] == ["not reproduced"] * 6
    assert set(stability_region.pictures(records, {})) == {"region"}
