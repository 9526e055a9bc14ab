"""The page on scale shows what its command prints, and the command's figures follow from its formulas."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from benchmarks import distributed_step, measure, scaling

PAGE = Path(__file__).resolve().parents[3] / "docs" / "moe" / "scaling.md"


def test_the_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main([])
    printed = set(capsys.readouterr().out.splitlines())
    fences = re.findall(r"```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    lines = [line for fence in fences[:-1] for line in fence.splitlines()]
    assert len(lines) > 40 and [line for line in lines if line not in printed] == []


def test_the_page_shows_what_was_measured() -> None:
    import json

    found = json.loads((scaling.RESULTS / "distributed_step_2.json").read_text())
    table = measure.table(found["title"], distributed_step.HEADER, distributed_step.rows_of(found["rows"]))
    assert table.rstrip() in PAGE.read_text("utf-8")


def test_costs_follow_the_layout() -> None:
    model, machine = scaling.MODELS["qwen1.5-moe"], scaling.Machine()
    costs = {
        gpus: scaling.cost(model, scaling.layout_of(model, "columns", gpus), machine, 1e-4) for gpus in scaling.GPUS
    }
    assert costs[64].parts["Gram"] == pytest.approx(costs[8].parts["Gram"] / 8)
    assert costs[8].parts["Gram"] == pytest.approx(23 * 61 * 8_650_752 * 2 / 8 / machine.memory)
    assert costs[8].counts == {"all_reduce": 23, "all_gather": 24, "reduce_scatter": 23}
    slow = scaling.cost(model, scaling.layout_of(model, "columns", 64), replace(machine, outside=25e9), 1e-4)
    assert slow.parts["moving"] == pytest.approx(2 * costs[64].parts["moving"])
    rare = scaling.cost(model, scaling.layout_of(model, "columns", 8), machine, 1e-4, every=8)
    assert rare.counts["all_reduce"] == 3 and rare.parts["solves"] == pytest.approx(3e-4)


def test_what_does_not_fit_is_left_out() -> None:
    largest = scaling.MODELS["one-trillion"]
    assert scaling.layout_of(largest, "hybrid", 64) is None
    assert scaling.layout_of(largest, "experts", 4096) is None
    assert scaling.layout_of(largest, "tensor", 4096) is None
    assert scaling.layout_of(largest, "hybrid", 4096).copies == 8
