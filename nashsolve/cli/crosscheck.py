"""`nashsolve crosscheck FILE`: every installed solver, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nashsolve.crosscheck import CrossCheck
from nashsolve.crosscheck import crosscheck as compare

from .arguments import DISAGREEMENT, FILE, JSON, RADIUS, VECTORS, WEIGHTS
from .exits import Exit, emit, finish, guarded
from .files import read_numbers, read_problem
from .tables import show_crosscheck


def crosscheck(
    file: Annotated[Path, FILE],
    vectors: Annotated[bool, VECTORS] = False,
    weights: Annotated[str | None, WEIGHTS] = None,
    disagreement: Annotated[str | None, DISAGREEMENT] = None,
    radius: Annotated[float | None, RADIUS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run every installed solver on FILE; exit 0 if one is certified and no certified one contradicts it."""
    with guarded(as_json):
        problem = read_problem(
            file,
            vectors=vectors,
            weights=read_numbers(weights, "weights"),
            disagreement=read_numbers(disagreement, "disagreement"),
            radius=radius,
        )
        result = compare(problem)
        code = _code(result)
        if as_json:
            emit({**result.to_dict(), "exit_code": int(code)})
        else:
            show_crosscheck(result)
        finish(code)


def _code(result: CrossCheck) -> Exit:
    contradicted = any(row.verdict.startswith("DIFFERS") for row in result.rows)
    good = result.best is not None and result.best.success and not contradicted
    return Exit.SOLVED if good else Exit.NO_ANSWER
