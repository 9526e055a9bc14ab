"""The report from stored results, and the paper's numbers beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nashsolve.cli.app import app
from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.curves import mean_curves
from nashsolve.integrations.experiments.header import open_run, read_header, save_header
from nashsolve.integrations.experiments.recipe import find_recipe
from nashsolve.integrations.experiments.report import build
from nashsolve.integrations.experiments.reported import reported_tables, reported_value
from nashsolve.integrations.experiments.runner import close


def stored(folder: Path) -> Path:
    """A finished run of the digits with invented numbers: NAMEx-Full better than SMEAR by one, EP-CAMEx by noise."""
    recipe = find_recipe("mini-x6-digits")
    settings = recipe.chosen("cpu")
    place = folder / recipe.name
    header = open_run(place, recipe, settings, "cpu")
    book = Book(place)
    gains = {"smear": 0.0, "namex_full": 1.0, "ep_camex": 0.0}
    for _ in book.todo([f"{system}/{seed}" for system in gains for seed in range(3)]):
        pass
    for system, gain in gains.items():
        for seed in range(3):
            key = f"{system}/{seed}"
            wobble = 0.1 * ((seed * 7 + len(system)) % 3 - 1)
            top1 = 90 + seed + gain + (wobble if gain == 0 and system != "smear" else 0.01 * wobble)
            numbers = {"shift": 40.0, "noise": 50.0, "occlusion": 60.0, "aupr": 70.0}
            book.record(key, system=system, seed=seed, top1=top1, **numbers)
            for step in range(8):
                book.curve(key, step, loss=1.0 / (step + 1))
    close(book, recipe, settings)
    save_header(place, header | {"complete": True})
    return place


def test_other_settings_are_marked(tmp_path: Path) -> None:
    place = stored(tmp_path / "results")
    assert "other settings" not in build(place, tmp_path / "out").read_text()
    header = read_header(place)
    save_header(place, header | {"settings": header["settings"] | {"seeds": 3}})
    page = build(place, tmp_path / "out").read_text()
    assert f"other settings than the recipe has now: seeds = 3, not {header['settings']['seeds']}.**" in page


def test_missing_results_are_named(tmp_path: Path) -> None:
    results = tmp_path / "results"
    stored(results)
    other = find_recipe("mini-layer-facts")
    save_header(results / other.name, open_run(results / other.name, other, other.chosen("cpu"), "cpu"))
    page = build(results, tmp_path / "out").read_text()
    (line,) = (line for line in page.splitlines() if line.startswith("**No result of "))
    assert "mini-x2-stability, mini-x3-chain-dynamics" in line and "mini-x6-digits" not in line and "full" not in line


def test_page(tmp_path: Path) -> None:
    stored(tmp_path / "results")
    page = build(tmp_path / "results", tmp_path / "out").read_text()
    assert "## Digits, nine systems, robust sets" in page and "not complete" not in page
    row = next(line for line in page.splitlines() if line.startswith("| NAMEx-Full | 92.0"))
    assert "**+1.00 [" in row and "84.27±.24" in row
    row = next(line for line in page.splitlines() if line.startswith("| EP-CAMEx | 91."))
    assert "**" not in row and "84.23" not in row and "83.23±.25" in row
    assert re.search(r"\| NAMEx-Full is better than SMEAR .*\*\*reproduced\*\*", page)
    assert re.search(r"\| NAMEx-Full is better than EP-CAMEx .*\*\*", page)
    assert (tmp_path / "out" / "pictures" / "mini-x6-digits-curves.png").stat().st_size > 5000
    assert "](pictures/mini-x6-digits-curves.png)" in page
    assert not (tmp_path / "results" / "mini-x6-digits" / ".locks").exists()


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    place = stored(tmp_path / "results")
    header = json.loads((place / "run.json").read_text())
    save_header(place, header | {"complete": False})
    assert "This run is not complete" in build(place, tmp_path / "out").read_text()
    with pytest.raises(InvalidProblem, match="holds no results"):
        build(tmp_path, tmp_path / "out")


def test_reported_numbers() -> None:
    assert sorted(reported_tables()) == sorted(f"table_{k}" for k in (*range(1, 9), *range(10, 18)))
    assert reported_value("table_1", "Small TestPPL", "NAMEx-Full-Mom") == "82.94±.20"
    assert reported_value("table_5", "RTE", "-pi/6", "NAMEx") == "76.64"
    assert reported_value("table_1", "Small TestPPL", "Dense") is None
    with pytest.raises(InvalidProblem, match="did you mean 'table_1"):
        reported_value("table_1_", "Small TestPPL", "Dense")
    with pytest.raises(InvalidProblem, match="did you mean 'Small TestPPL'"):
        reported_value("table_1", "Small TestPLP", "Dense")
    for name, table in reported_tables().items():
        assert all(len(row) == len(table.columns) for row in table.rows), name


def test_curves_are_means_over_the_seeds_that_reach_a_step() -> None:
    curves: dict[str, list[dict[str, Any]]] = {
        "a/0": [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 3.0}],
        "a/1": [{"step": 0, "loss": 2.0}],
        "pretraining": [{"step": 0, "loss": 9.0}],
    }
    ((name, (steps, values)),) = mean_curves(curves, "loss").items()
    assert name == "a" and steps.tolist() == [0] and values.tolist() == [1.5]


def test_commands(tmp_path: Path) -> None:
    call = CliRunner().invoke
    said = call(app, ["experiment", "list", "--json"], catch_exceptions=False)
    assert said.exit_code == 0
    assert "mini-x6-digits" in {recipe["name"] for recipe in json.loads(said.stdout)["recipes"]}
    said = call(app, ["experiment", "run", "mini-x6-digits", "--dry-run", "--set", "seeds=1"], catch_exceptions=False)
    assert said.exit_code == 0 and "reduced: " in said.stdout and "M parameters" in said.stdout
    for words, code, sentence in (
        (["run", "mini-x6-digit"], 1, "did you mean 'mini-x6-digits'"),
        (["run", "mini-x6-digits", "--set", "seeds"], 2, "KEY=YAML"),
        (["run", "mini-x6-digits", "--set", "seed=1"], 1, "did you mean 'seeds'"),
        (["run", "mini-x6-digits", "--device", "tpu"], 1, "'cpu' or 'cuda'"),
        (["report", str(tmp_path)], 1, "holds no results"),
    ):
        said = call(app, ["experiment", *words, *(["-o", str(tmp_path / "runs")] if words[0] == "run" else [])])
        assert said.exit_code == code and sentence in said.stderr, (words, said.stderr)
    stored(tmp_path / "results")
    said = call(app, ["experiment", "report", str(tmp_path / "results"), "-o", str(tmp_path / "page")])
    assert said.exit_code == 0 and (tmp_path / "page" / "results.md").exists()
