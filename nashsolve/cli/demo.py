"""`nashsolve demo`: real problems, several solvers, one verdict, and a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution
from nashsolve.crosscheck import crosscheck
from nashsolve.demos import other_rules
from nashsolve.demos.digits_gradients import NAMES, STEPS, class_gradients
from nashsolve.plotting import plot_utilities, save
from nashsolve.solve import explain, solve

from .exits import Exit, finish, guarded
from .tables import show_crosscheck

PICTURE = "nashsolve-demo.png"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("."),
) -> None:
    """Ten handwritten digits bargain over the next step of their classifier; under a minute."""
    with guarded(as_json=False):
        vectors = class_gradients()
        typer.echo(
            f"Softmax regression on 1,797 images of handwritten digits, after {STEPS} steps. Ten players:\n"
            "each class wants the next step to lower its own loss. A step x has length at most 1, and the\n"
            "utility of a digit is how fast x lowers its loss. Whose step?"
        )
        solutions = [_show(title, problem) for title, problem in stories(vectors)]
        file = _picture(vectors, solutions[0], out)
        typer.echo(f"\nPicture: {file}")
        wanted = [True, True, True, False]
        finish(Exit.SOLVED if [s.success for s in solutions] == wanted else Exit.NO_ANSWER)


def stories(vectors: np.ndarray) -> list[tuple[str, BargainingProblem]]:
    """The four problems of the demonstration."""
    weights = np.where(np.arange(len(vectors)) == 8, 5.0, 1.0)
    half = 0.5 * vectors @ other_rules.sum_direction(vectors)
    centred = vectors - vectors.mean(axis=0)
    return [
        ("1. Equal players", BargainingProblem(vectors=vectors, names=NAMES, radius=1.0)),
        (
            "2. Digit 8 has five times the bargaining power",
            BargainingProblem(vectors=vectors, names=NAMES, radius=1.0, weights=weights),
        ),
        (
            "3. Without agreement everyone gets half of what the plain mean would give",
            BargainingProblem(vectors=vectors, names=NAMES, radius=1.0, disagreement=half),
        ),
        (
            "4. The mean subtracted from every player: what is left cannot be agreed upon",
            BargainingProblem(vectors=centred, names=NAMES, radius=1.0),
        ),
    ]


def compare_rules(vectors: np.ndarray, agreed: Solution) -> dict[str, np.ndarray]:
    """Utilities of the players under four rules, all on the unit ball."""
    return {
        "Nash bargaining": np.asarray(agreed.utilities),
        "min-norm (MGDA)": vectors @ other_rules.min_norm_direction(vectors),
        "sum": vectors @ other_rules.sum_direction(vectors),
        "mean of unit vectors": vectors @ other_rules.mean_direction(vectors),
    }


def _show(title: str, problem: BargainingProblem) -> Solution:
    typer.echo(f"\n{title}\n{'-' * len(title)}")
    found = solve(problem, on_failure="return")
    if found.success:
        typer.echo(repr(found))
    else:
        typer.echo(textwrap.fill(f"{found.status.name}: {explain(found)}", 100))
    show_crosscheck(crosscheck(problem))
    return found


def _picture(vectors: np.ndarray, agreed: Solution, out: Path) -> Path:
    rules = compare_rules(vectors, agreed)
    ax = plot_utilities(rules, names=NAMES)
    ax.set_title("Who gains from the next step? Ten digits, four ways to combine their gradients", loc="left")
    ax.set_ylabel("loss reduction per unit step")
    out.mkdir(parents=True, exist_ok=True)
    return save(ax, out / PICTURE)
