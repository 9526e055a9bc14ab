"""X16: every infeasible base expert is recognised, every feasible one solved, and nothing is ever NaN."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import itertools

from nashsolve.integrations.experiments.studies import infeasibility
from tests.experiments.studies.study_run import records_of
from tests.tolerances import tolerance


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return records_of("infeasibility", tmp_path_factory.mktemp("x16"))


@pytest.mark.parametrize(("case", "exists"), infeasibility.CASES.items())
def test_status_and_policies_of_every_case(records: list[dict], case: str, exists: bool) -> None:
    [found] = [r for r in records if r.get("case") == case]
    assert (found["status"] == "SOLVED") == exists
    assert found["status"] == ("SOLVED" if exists else "NO_AGREEMENT")
    for policy, answer in found["policies"].items():
        assert answer["finite"]
        assert answer["acted"] in (("",) if exists else (policy, "hold"))
        assert (answer["worst_gain"] > 0) == exists
    assert exists or found["policies"]["hold"]["step"] == 0.0


def test_coefficients_explode_near_the_mean_and_the_step_does_not(records: list[dict]) -> None:
    near = [r for r in records if r["kind"] == "near"]
    sums = [r["sum"] for r in near]
    assert all(later == pytest.approx(10 * sooner, rel=0.1) for sooner, later in itertools.pairwise(sums))
    assert all(r["step"] == pytest.approx(math.sqrt(8), rel=tolerance("float64", "certificate")) for r in near)


def test_a_solver_without_a_certificate_seems_to_converge(records: list[dict]) -> None:
    naive = [r for r in records if r["kind"] == "naive"]
    assert all(b["residual"] < a["residual"] and b["sum"] > a["sum"] for a, b in itertools.pairwise(naive))


def test_claims_and_picture(records: list[dict]) -> None:
    pytest.importorskip("matplotlib")
    found = infeasibility.claims(records)
    assert "9 of 9 cases" in found[0].measured
    assert set(infeasibility.pictures(records, {})) == {"near_the_mean"}
