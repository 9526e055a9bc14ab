"""What `compare` and `plot` read: a problem of any family, and which concepts to apply to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nashsolve.concepts import catalog

from .exits import UsageError
from .families import SUFFIXES, read_family
from .files import read_problem


def read_any(file: Path, vectors: bool = False) -> Any:
    """The problem of a file of any kind."""
    if file.suffix.lower() in SUFFIXES:
        return read_family(file, vectors=vectors or None)[0]
    return read_problem(file, vectors=vectors)


def read_concepts(text: str | None) -> list[str] | None:
    """Names from a comma list."""
    if text is None:
        return None
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for name in chosen:
        if name not in catalog.NAMES:
            raise UsageError(f"--concepts has {name!r}; choose among {', '.join(catalog.NAMES)}")
    return chosen
