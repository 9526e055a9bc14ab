"""Curves in TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.recipe import Recipe
from nashsolve.integrations.experiments.runner import run

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def test_curves_are_logged(small_recipe: Recipe, tmp_path: Path) -> None:
    run(small_recipe, tmp_path, jobs=2, show=False, tensorboard=True)
    for key, points in Book(tmp_path).curves().items():
        found = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / key))
        found.Reload()
        logged = [(event.step, event.value) for event in found.Scalars("loss")]
        assert logged == [(point["step"], pytest.approx(point["loss"])) for point in points] and logged
