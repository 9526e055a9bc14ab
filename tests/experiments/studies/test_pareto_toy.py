"""X1: everybody gains under Nash, nothing dominates the mean, and the mean hurts somebody in two draws of five."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from nashsolve.integrations.experiments.studies import pareto_toy
from tests.experiments.studies.study_run import records_of
from tests.tolerances import tolerance

SUM = tolerance("float64", "sum")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return records_of("pareto_toy", tmp_path_factory.mktemp("x1"), trials=300, sample=300, dimensions=[3, 10])


def test_nash_hurts_nobody_and_has_the_largest_product(records: list[dict]) -> None:
    families = [r for r in records if r["kind"] == "family"]
    assert len(families) == 2 * len(pareto_toy.FAMILIES)
    assert all(r["nash_hurts"] == r["nash_product_beaten"] == 0 for r in families)
    assert max(r["nash_unit_change"] for r in families) < tolerance("float64", "rtol")


def test_the_mean_is_never_dominated_and_often_hurts(records: list[dict]) -> None:
    families = {r["key"]: r for r in records if r["kind"] == "family"}
    assert max(r["mean_dominated_by"] for r in families.values()) < SUM
    assert 0.35 < families["random-3"]["mean_hurts"] < 0.5


def test_room_is_found_above_a_dominated_step() -> None:
    vectors = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    inside = np.array([[0.1, 0.1, 0.1]])
    assert pareto_toy.room_above_mean(vectors, inside)[0] > 0.4


def test_claims_and_picture(records: list[dict]) -> None:
    pytest.importorskip("matplotlib")
    assert [c.verdict for c in pareto_toy.claims(records)] == ["reproduced", "not reproduced", "reproduced"]
    assert set(pareto_toy.pictures(records, {})) == {"half_sphere"}
