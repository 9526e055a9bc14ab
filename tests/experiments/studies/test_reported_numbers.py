"""The paper's sentences against its tables: what is found, and that a check can also hold."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from nashsolve.integrations.experiments.reported import Reported, reported_tables
from nashsolve.integrations.experiments.studies import reported_numbers as checks
from tests.experiments.studies.study_run import records_of


def test_findings_on_the_printed_numbers(tmp_path: Path) -> None:
    records = records_of("reported_numbers", tmp_path)
    assert {r["key"] for r in records} == set(checks.CHECKS)
    found = {r["key"]: r["found"] for r in records}
    assert "Medium ValPPL: SMoE(Top-2)" in found["perplexity"]
    assert "phi = -pi/6 (76.64)" in found["peak"]
    assert "SMoE 3.00, SMoE(Top-2) 2.46" in found["flops"]
    assert "4.04, 1.63, 0.48, 0.03 (rest: 0.66, 0.66, 0.66, 0.66)" in found["seconds"]
    assert "NAMEX -0.012, NAMEX-Full +0.006, NAMEX-Full-Mom +0.006" in found["epochs"]
    assert len(checks.claims(records)) == len(records)


def changed(table: str, old: str, new: str) -> dict[str, Reported]:
    tables = dict(reported_tables())
    rows = [[cell.replace(old, new) for cell in row] for row in tables[table].rows]
    tables[table] = tables[table].changed(rows=rows)
    return tables


def test_a_check_holds_where_the_numbers_agree() -> None:
    assert checks.lowest_perplexity(changed("table_1", "33.76", "39.76"))[1]
    assert checks.flops_three_times(changed("table_13", "18.32", "22.32"))[1]
    assert not checks.flops_three_times(dict(reported_tables()))[1]


@pytest.mark.parametrize(("value", "possible"), [(100 * 210 / 277, True), (70.75, True), (76.64, False)])
def test_which_accuracies_are_means_of_runs(value: float, possible: bool) -> None:
    assert checks.possible_mean(round(value, 2)) == possible
