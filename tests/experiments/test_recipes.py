"""Every recipe in the repository: it loads, its settings are valid, and it takes two small steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.recipe import find_recipe, load_recipe, recipe_files
from nashsolve.integrations.experiments.runner import one_thread
from nashsolve.integrations.experiments.study import Claim, optional

NEEDS_TRANSFORMERS = {"glue", "imagenet", "llm_surgery", "released_maps"}
RECIPES = sorted(recipe_files())
GOOD = """
name: mini-test
study: digits
title: A test
mirrors: [table 3]
scale: miniature
size: small
data: digits
cost: {hardware: 2 CPU cores, minutes: 1, memory_gib: 1, known_by: measured}
settings:
  systems: [smear]
  seeds: 1
  optimisation: {steps: 2, lr: 0.01}
"""


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    if recipe.study in NEEDS_TRANSFORMERS:
        pytest.importorskip("transformers")
    study = recipe.load_study()
    book = Book(tmp_path)
    settings = recipe.chosen("cpu")
    with one_thread("cpu"):
        study.run(study.reduced(settings), book)
    assert book.units() and not book.left()
    claims = study.claims(book.records())
    assert all(isinstance(claim, Claim) and claim.text and claim.measured and claim.reason for claim in claims)
    for table in (optional(study, "tables") or (lambda _: []))(book.records()):
        assert all(len(row) == len(table.header) for row in table.rows)
    plan = optional(study, "plan")
    if plan is not None and recipe.scale == "miniature":
        assert all(isinstance(line, str) for line in plan(settings))


def test_every_study_has_a_recipe() -> None:
    from nashsolve.integrations.experiments.study import study_names

    assert {find_recipe(name).study for name in RECIPES} == set(study_names())


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("study: digits", "study: digit", "did you mean 'digits'"),
        ("  seeds: 1", "  seed: 1", "did you mean 'seeds'"),
        ("scale: miniature", "scale: tiny", "scale"),
        ("[smear]", "[smeer]", "did you mean 'smear'"),
        ("title: A test", "title: A test\ntitle: again", "twice"),
        ("name: mini-test", "name: other", "must be named like it"),
        ("mirrors: [table 3]", "mirrors: []", "mirrors"),
        ("steps: 2,", "steps: 0,", "steps"),
        ("cost: {hardware: 2 CPU cores, minutes: 1,", "cost: {hardware: 2 CPU cores, minutes: 0,", "minutes"),
    ],
)
def test_refused(before: str, after: str, sentence: str, write_recipe: Callable[[str], Path]) -> None:
    assert before in GOOD
    load_recipe(write_recipe(GOOD))
    with pytest.raises(ValueError, match=sentence):
        load_recipe(write_recipe(GOOD.replace(before, after)))


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InvalidProblem, match="did you mean 'mini-x6-digits'"):
        find_recipe("mini-x6-digit")
