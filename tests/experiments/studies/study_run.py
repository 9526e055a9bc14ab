"""Run a study into a fresh book."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.study import load_study


def records_of(name: str, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Its records with its own settings, some of them changed."""
    study = load_study(name)
    book = Book(folder)
    study.run(study.Settings(**settings), book)
    assert not book.left()
    return book.records()
