"""`nashsolve plot FILE OUT`: a picture of a problem and its agreements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nashsolve import axioms
from nashsolve.compare import Comparison
from nashsolve.compare import compare as compare_concepts

from .any_file import read_any, read_concepts
from .arguments import FILE, VECTORS
from .exits import UsageError, guarded

KINDS = ("auto", "frontier", "simplex", "hemisphere", "gains", "axioms")


def plot(
    file: Annotated[Path, FILE],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}; auto goes by the number of players.")] = "auto",
    concepts: Annotated[str | None, typer.Option(metavar="LIST", help="Concepts to show.")] = None,
    vectors: Annotated[bool, VECTORS] = False,
) -> None:
    """Draw the problem in FILE with its agreements into OUT."""
    with guarded(as_json=False):
        if kind not in KINDS:
            raise UsageError(f"--kind is {kind!r}; choose one of {', '.join(KINDS)}")
        if out.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UsageError(f"OUT is {out.name}; give a name that ends in .png, .svg or .pdf")
        chosen = read_concepts(concepts)
        result = compare_concepts(read_any(file, vectors), chosen)
        from nashsolve.plotting import save

        typer.echo(str(save(_draw(kind, result), out)))


def _draw(kind: str, result: Comparison) -> Any:
    from nashsolve import plotting

    problem, found = result.problem, result.solutions
    if kind == "auto":
        kind = {2: "frontier", 3: "simplex"}.get(problem.n, "gains")
    if kind == "axioms":
        return plotting.plot_axioms([axioms.check(problem, name) for name in found])
    draw: dict[str, Any] = {"simplex": plotting.plot_simplex, "hemisphere": plotting.plot_hemisphere}
    if kind in draw:
        return draw[kind](problem, found)
    return plotting.plot_frontier(problem, found) if kind == "frontier" else plotting.plot_gains(found)
