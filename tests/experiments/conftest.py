"""Experiments need PyTorch, pydantic and YAML; where one is missing the whole folder is skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra 'experiments' is not installed")
pytest.importorskip("pydantic", reason="the extra 'experiments' is not installed")
pytest.importorskip("yaml", reason="the extra 'experiments' is not installed")
pytest.importorskip("safetensors", reason="the extra 'experiments' is not installed")
pytest.importorskip("sklearn", reason="the extra 'experiments' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'experiments' is not installed")
pytest.importorskip("typer", reason="the extra 'experiments' is not installed")

from nashsolve.integrations.experiments.recipe import Recipe, find_recipe


@pytest.fixture(scope="module")
def small_recipe() -> Recipe:
    """The language models, in few steps of two systems."""
    found = find_recipe("mini-x4-language-model")
    study = found.load_study()
    settings = study.reduced(found.chosen("cpu"))
    how = settings.optimisation.changed(steps=6, log_every=1, save_every=2)
    chosen = settings.changed(windows=1, systems=["smear", "namex_full"], optimisation=how.model_dump())
    return found.changed(settings=chosen.model_dump(), cuda={}, cuda_cost=None)


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a recipe file and returns its path."""

    def write(text: str, name: str = "mini-test") -> Path:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        file = folder / f"{name}.yaml"
        file.write_text(text)
        return file

    return write
