"""`nashsolve verify FILE ALPHA`: judge an alpha from anywhere by the data alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from nashsolve.core.certificate import verify as check
from nashsolve.core.solver import RawAnswer
from nashsolve.core.status import Status
from nashsolve.solve import explain, judge

from .arguments import DISAGREEMENT, FILE, JSON, RADIUS, VECTORS, WEIGHTS
from .exits import Exit, emit, finish, guarded
from .files import read_answer, read_numbers, read_problem


def verify(
    file: Annotated[Path, FILE],
    alpha: Annotated[
        str,
        typer.Argument(
            metavar="ALPHA",
            help="Multipliers w / gains: a comma list, a .json, .npy or .csv file, or the output of solve --json.",
        ),
    ],
    vectors: Annotated[bool, VECTORS] = False,
    weights: Annotated[str | None, WEIGHTS] = None,
    disagreement: Annotated[str | None, DISAGREEMENT] = None,
    radius: Annotated[float | None, RADIUS] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative accuracy asked of every alpha.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Judge ALPHA, from anywhere, as the answer to the problem in FILE."""
    with guarded(as_json):
        begin = time.perf_counter()
        problem = read_problem(
            file,
            vectors=vectors,
            weights=read_numbers(weights, "weights"),
            disagreement=read_numbers(disagreement, "disagreement"),
            radius=radius,
        )
        value, coefficients = read_answer(alpha)
        check(problem, value, coefficients)
        raw = RawAnswer(value, 0, coefficients=coefficients)
        found = judge(problem, raw, rtol, solver="verify", begin=begin)
        code = Exit.SOLVED if found.success else Exit.NO_ANSWER
        wrong = found.status is Status.NUMERICAL_ERROR
        words = "This alpha is not certified as the Nash bargaining solution." if wrong else explain(found)
        if as_json:
            emit({**found.to_dict(), "message": words, "explanation": words, "exit_code": int(code)})
        else:
            typer.echo("\n".join([*repr(found).splitlines()[:-1], words]))
        finish(code)
