"""What published choices do to a layer: zeros that are exact zeros, and the other reading that is not zero."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from nashsolve.integrations.experiments.studies import layer_facts
from tests.experiments.studies.study_run import records_of
from tests.tolerances import tolerance

SUM = tolerance("float64", "sum")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return {r["key"]: r for r in records_of("layer_facts", tmp_path_factory.mktemp("facts"), seed=1)}


def test_the_published_top_one_never_trains_its_router(facts: dict[str, dict]) -> None:
    assert facts["top one"]["after"] == 0.0 < facts["top one"]["before"]


def test_copies_give_router_and_curvature_nothing(facts: dict[str, dict]) -> None:
    found = facts["copies"]
    assert max(found["router_copies"], found["curvature_copies"]) < SUM
    assert min(found["router"], found["curvature"]) > 1e-3


def test_published_curvature_starts_at_its_number_of_terms(facts: dict[str, dict]) -> None:
    assert facts["curvature"]["eta_8"] < tolerance("float64", "rtol") < facts["curvature"]["eta_1"]


def test_the_published_first_segment_leaks(facts: dict[str, dict]) -> None:
    assert facts["leak"]["own"] > 1e-6
    assert facts["leak"]["learned"] == facts["leak"]["router_gradient_of_one_segment"] == 0.0


def test_the_last_layer_gets_nothing_from_the_chain(facts: dict[str, dict]) -> None:
    *earlier, last = facts["chain"]["norms"]
    assert last is None and min(earlier) > 1e-3


def test_claims(facts: dict[str, dict]) -> None:
    assert [c.verdict for c in layer_facts.claims(list(facts.values()))] == ["not reproduced"] * 5
