"""X3: the length of exact steps, the one step of EP-CAMEx, and the growth of the published scale."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from nashsolve.integrations.experiments.studies import chain_dynamics
from tests.experiments.studies.study_run import records_of
from tests.tolerances import tolerance

SUM = tolerance("float64", "sum")
CERTIFIED = tolerance("float64", "rtol")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return records_of("chain_dynamics", tmp_path_factory.mktemp("x3"), depths=[12])


def walk(records: list[dict], world: str, scale: str, momentum: str = "none") -> dict:
    [found] = [r for r in records if (r["world"], r["scale"]) == (world, scale)]
    return found["walks"][momentum]


@pytest.mark.parametrize("world", chain_dynamics.WORLDS)
def test_exact_steps_have_length_root_n(records: list[dict], world: str) -> None:
    lengths = walk(records, world, "exact")["step_norms"]
    assert len(lengths) == 11
    assert max(abs(length - math.sqrt(8)) for length in lengths) < CERTIFIED


def test_uniform_coefficients_arrive_at_the_mean_in_one_step(records: list[dict]) -> None:
    found = walk(records, "same", "uniform")
    assert found["distances"][0] > 0.5 and found["distances"][1] < SUM and found["moves"][1] < SUM


def test_coefficients_that_sum_to_one_stop_in_the_hull(records: list[dict]) -> None:
    assert walk(records, "same", "sum_to_one")["refused"] == 10


def test_the_published_scale_diverges_and_others_do_not(records: list[dict]) -> None:
    assert chain_dynamics.growth(walk(records, "fresh", "frobenius")["moves"]) > 5
    assert chain_dynamics.growth(walk(records, "fresh", "sum_to_one")["moves"]) < 1.1


def test_momentum_reaches_the_chain(records: list[dict]) -> None:
    moves = [walk(records, "fresh", "uniform", name)["moves"] for name in chain_dynamics.MOMENTA]
    assert all(moves[0][0] == pytest.approx(other[0]) and moves[0][2] != other[2] for other in moves[1:])


def test_claims_and_picture(records: list[dict]) -> None:
    pytest.importorskip("matplotlib")
    assert [c.verdict for c in chain_dynamics.claims(records)] == ["not reproduced"] * 3
    assert set(chain_dynamics.pictures(records, {})) == {"moves"}
