"""`nashsolve solve FILE`: the bargaining solution of a file, with its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nashsolve.backends import catalog
from nashsolve.concepts import catalog as concepts
from nashsolve.solve import explain
from nashsolve.solve import solve as solve_problem

from .arguments import DISAGREEMENT, FILE, JSON, RADIUS, VECTORS, WEIGHTS
from .exits import Exit, UsageError, emit, finish, guarded
from .families import SUFFIXES, read_family
from .files import read_numbers, read_problem

_SOLVERS = ("auto", *catalog.names())
_POLICIES = ("raise", "return", "face")


def solve(
    file: Annotated[Path, FILE],
    vectors: Annotated[bool, VECTORS] = False,
    weights: Annotated[str | None, WEIGHTS] = None,
    disagreement: Annotated[str | None, DISAGREEMENT] = None,
    radius: Annotated[float | None, RADIUS] = None,
    solver: Annotated[str, typer.Option(help=f"One of {', '.join(_SOLVERS)}.")] = "auto",
    concept: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(concepts.NAMES)}; nash, or what a .yaml file says.")
    ] = None,
    max_iter: Annotated[int | None, typer.Option(help="Iterations allowed.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative accuracy wanted of every alpha.")] = None,
    on_failure: Annotated[
        str,
        typer.Option(
            help="raise: a sentence on stderr; return: print what was found; face: the partial agreement "
            "that holds blocked players at disagreement."
        ),
    ] = "raise",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Solve the bargaining problem in FILE and certify the answer."""
    with guarded(as_json):
        _check("solver", solver, _SOLVERS)
        _check("on-failure", on_failure, _POLICIES)
        _check("concept", concept or "nash", concepts.NAMES)
        small = {name: read_numbers(v, name) for name, v in (("weights", weights), ("disagreement", disagreement))}
        chosen, problem = concept or "nash", None
        more: dict[str, Any] = {}
        if file.suffix.lower() in SUFFIXES:
            problem, stated, more = read_family(file, **small, radius=radius, vectors=vectors or None)
            chosen, more = (stated, more) if concept in (None, stated) else (concept, {})
        else:
            problem = read_problem(file, vectors=vectors, **small, radius=radius)
        given = {"max_iter": max_iter, "rtol": rtol}
        options: dict[str, Any] = more | {name: value for name, value in given.items() if value is not None}
        solution = solve_problem(problem, concept=chosen, solver=solver, on_failure=on_failure, **options)
        code = Exit.SOLVED if solution.success else Exit.NO_ANSWER
        if as_json:
            emit({**solution.to_dict(), "explanation": explain(solution), "exit_code": int(code)})
        else:
            typer.echo(repr(solution))
        finish(code)


def _check(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"--{option} is {value!r}; choose one of {', '.join(allowed)}")
