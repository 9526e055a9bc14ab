"""X10: the procedure beside the exact solution: right where vectors agree, stuck or elsewhere on ordinary others."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("cvxpy")

from nashsolve.integrations.experiments.studies import ccp_budget
from tests.experiments.studies.study_run import records_of
from tests.tolerances import tolerance


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return records_of("ccp_budget", tmp_path_factory.mktemp("x10"), players=[8], draws=6)


def test_aligned_vectors_are_solved_at_once(records: list[dict]) -> None:
    aligned = [r["rows"] for r in records if r["family"] == "aligned"]
    assert max(row["share_error"] for rows in aligned for row in rows[1:]) < tolerance("float64", "certificate")


def test_some_random_draws_end_elsewhere_and_report_it(records: list[dict]) -> None:
    wrong = [r for r in records if r["family"] == "random" and not r["right_at_last"]]
    assert wrong
    assert all(r["rows"][-1]["residual"] > 1e-3 for r in wrong)


def test_a_larger_budget_goes_on_where_the_smaller_ended() -> None:
    settings = ccp_budget.Settings(budgets=[1, 3])
    whole = ccp_budget.Settings(budgets=[3])
    gram = ccp_budget.draw_gram("random", 8, 1, settings)
    parts, once = ccp_budget.walk(gram, settings), ccp_budget.walk(gram, whole)
    assert parts["rows"][-1]["share_error"] == pytest.approx(once["rows"][-1]["share_error"], rel=1e-3, abs=1e-6)


def test_the_exact_solution_has_no_error() -> None:
    exact = np.array([0.5, 2.0])
    found = ccp_budget.judge(np.diag(1 / exact**2), exact, exact)
    assert max(found.values()) < tolerance("float64", "ulp")
    assert ccp_budget.judge(np.diag(1 / exact**2), exact[::-1], exact)["alpha_error"] > 1


def test_claims_and_picture(records: list[dict]) -> None:
    pytest.importorskip("matplotlib")
    assert ccp_budget.claims(records)[2].verdict == "not reproduced"
    assert set(ccp_budget.pictures(records, {})) == {"budget"}
