"""X7, X9 and eta = 1: systems that must be the same are, and the comparison can tell others apart."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("safetensors")

from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.studies import identities
from nashsolve.integrations.experiments.studies._small_model import REDUCED, small_model
from tests.tolerances import tolerance

SETTINGS = identities.Settings(steps=5, sizes=REDUCED | {"layers": 4})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    book = Book(tmp_path_factory.mktemp("identities"))
    identities.run(SETTINGS, book)
    assert not book.left()
    return book.records()


def of(records: list[dict], kind: str) -> list[dict]:
    found = [r for r in records if r["kind"] == kind]
    assert found
    return found


def test_the_sign_of_the_phase_changes_no_bit(records: list[dict]) -> None:
    assert {r["loss_difference"] for r in of(records, "phase")} == {0.0}
    assert {r["parameter_difference"] for r in of(records, "phase")} == {0.0}


def test_a_quaternion_is_its_complex_twin(records: list[dict]) -> None:
    assert max(r["loss_difference"] for r in of(records, "quaternion")) < identities.TOLERANCE["quaternion"]
    [chain] = of(records, "hamilton")
    assert chain["largest_difference"] < tolerance("float64", "sum")


def test_eta_one_is_smear(records: list[dict]) -> None:
    assert len(of(records, "eta")) == 5
    assert max(r["loss_difference"] for r in of(records, "eta")) < identities.TOLERANCE["eta"]


def test_other_phases_and_other_eta_differ() -> None:
    one, other = (small_model("ep_camex_mom", SETTINGS.sizes, 0, chain={"momentum": {"phase": p}}) for p in (0.2, 0.5))
    assert identities.lockstep(one, other, SETTINGS)["loss_difference"] > 1e-6
    merged, smear = small_model("namex", SETTINGS.sizes, 0), small_model("smear", SETTINGS.sizes, 0)
    assert identities.lockstep(merged.double(), smear.double(), SETTINGS)["loss_difference"] > 1e-6


def test_claims_follow_the_records(records: list[dict], tmp_path: Path) -> None:
    assert [c.verdict for c in identities.claims(records)] == ["not reproduced"] * 3
    apart = [r | {"loss_difference": 0.1} if r["kind"] == "phase" else r for r in records]
    assert identities.claims(apart)[0].verdict == "reproduced"
