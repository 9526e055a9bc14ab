"""All recipes in one job, and the clock of a run that is killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nashsolve.cli.app import app
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.header import clocked, read_header
from nashsolve.integrations.experiments.job import NOTE, Job, in_turn, read_note, sentence
from nashsolve.integrations.experiments.recipe import Recipe, find_recipe, load_recipe, recipe_files
from nashsolve.integrations.experiments.report import build
from nashsolve.integrations.experiments.runner import Outcome, run

RECIPE = """
name: {name}
study: layer_facts
title: A test
mirrors: [table 1]
scale: {scale}
size: small
data: drawn
cost: {{hardware: 2 CPU cores, minutes: 1, memory_gib: 1, known_by: measured}}
alone: {alone}
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Two miniatures, of which the first times, and a full recipe."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, scale, alone in (("a", "miniature", "true"), ("b", "miniature", "false"), ("c", "full", "false")):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name, scale=scale, alone=alone))
    return folder


def test_one_job_runs_every_miniature_and_notes_it(recipes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["experiment", "run", "all-miniature", "--out", str(out), "--recipes", str(recipes), "--jobs", "2", "-q"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    note = json.loads((out / NOTE).read_text())
    assert list(note["recipes"]) == ["b", "a"] and note["complete"]
    assert all(entry["units"] == 5 and not entry["found"] + entry["left"] for entry in note["recipes"].values())
    assert note["seconds"] >= sum(entry["seconds"] for entry in note["recipes"].values()) > 0 < note["cpu_seconds"]
    assert "ran 2 recipes with 10 units in one job" in found.output
    assert [read_header(out / name)["jobs"] for name in "ab"] == [1, 2]
    again = CliRunner().invoke(app, command)
    assert "10 units, of which 10 had a result before" in again.output


def test_the_report_says_how_the_results_came(recipes: Path, tmp_path: Path) -> None:
    results = tmp_path / "out"
    run(load_recipe(recipes / "b.yaml"), results / "b", jobs=1, show=False)
    assert "all-miniature" not in build(results, tmp_path / "page", recipes).read_text()
    job = Job(results, "cpu")
    job.run([load_recipe(recipes / "b.yaml")], lambda recipe: Outcome(results / recipe.name, 5, 0, 0, [], 1.0))
    assert sentence(job.note) in build(results, tmp_path / "page", recipes).read_text()


def test_a_job_that_fails_is_not_complete(recipes: Path, tmp_path: Path) -> None:
    def do(recipe: Recipe) -> Outcome:
        if recipe.name == "a":
            raise RuntimeError
        return Outcome(tmp_path, 5, 0, 0, [], 1.0)

    with pytest.raises(RuntimeError):
        Job(tmp_path, "cpu").run([load_recipe(file) for file in recipes.glob("[ab].yaml")], do)
    note = read_note(tmp_path)
    assert note is not None and list(note["recipes"]) == ["b"]
    assert "ran 1 recipes" in sentence(note) and "did not finish" in sentence(note)


def test_what_times_comes_last() -> None:
    every = [load_recipe(file) for file in recipe_files().values()]
    order = [recipe.name for recipe in in_turn(every)]
    assert order[-1] == "mini-x14-cost" and sorted(order) == sorted(recipe_files())


def test_time_before_a_kill_counts(small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def stop(*_: Any, **__: Any) -> None:
        time.sleep(0.2)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Book, "record", stop)
        with pytest.raises(Killed):
            run(small_recipe, tmp_path, jobs=1, show=False)
    before = read_header(tmp_path)["wall_seconds"]
    assert before >= 0.2 and not read_header(tmp_path)["complete"]
    run(small_recipe, tmp_path, jobs=1, show=False)
    assert read_header(tmp_path)["wall_seconds"] > before and read_header(tmp_path)["complete"]


def test_the_clock_is_noted_while_it_runs(small_recipe: Recipe, tmp_path: Path) -> None:
    run(small_recipe, tmp_path, jobs=1, show=False)
    before = read_header(tmp_path)["wall_seconds"]
    with clocked(tmp_path, every=0.01):
        until = time.monotonic() + 10
        while read_header(tmp_path)["wall_seconds"] == before and time.monotonic() < until:
            time.sleep(0.01)
        assert read_header(tmp_path)["wall_seconds"] > before


def test_a_recipe_that_times_has_one_process() -> None:
    assert find_recipe("mini-x14-cost").alone
