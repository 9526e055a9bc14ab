"""`nashsolve compare FILE`: solution concepts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nashsolve.compare import compare as compare_concepts
from nashsolve.concepts import catalog

from .any_file import read_any, read_concepts
from .arguments import FILE, JSON, VECTORS
from .exits import Exit, emit, finish, guarded

CONCEPTS = typer.Option(metavar="LIST", help=f"Some of {', '.join(catalog.NAMES)}; all that are defined by default.")


def compare(
    file: Annotated[Path, FILE],
    concepts: Annotated[str | None, CONCEPTS] = None,
    vectors: Annotated[bool, VECTORS] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Solve FILE by several solution concepts; exit 0 if each of them is certified."""
    with guarded(as_json):
        chosen = read_concepts(concepts)
        result = compare_concepts(read_any(file, vectors), chosen)
        good = all(row.solution is not None and row.solution.success for row in result.rows)
        code = Exit.SOLVED if good else Exit.NO_ANSWER
        if as_json:
            emit({**result.to_dict(), "exit_code": int(code)})
        else:
            typer.echo(str(result))
        finish(code)
