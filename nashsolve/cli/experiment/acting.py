"""Commands that compute or write: run, report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ..arguments import JSON
from ..exits import UsageError, emit
from .endings import guarded, terminable
from .looking import RECIPES, plan_lines

ALL_MINIATURE = "all-miniature"


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"A recipe, its file, or {ALL_MINIATURE}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Results go into OUT/NAME.")] = Path("experiment-runs"),
    device: Annotated[str, typer.Option(help="cpu, or cuda for the recipe's larger scale.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default one for every core or GPU.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=YAML", help="Change a setting.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and take two small steps.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what OUT/NAME holds first.")] = False,
    data_parallel: Annotated[
        bool, typer.Option("--data-parallel", help="Under torchrun: all ranks train each unit together.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log curves for TensorBoard, too.")] = False,
    recipes: Annotated[Path | None, RECIPES] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run NAME, or go on where it was killed; several processes may work on one folder."""
    with guarded(as_json), terminable():
        from nashsolve.integrations.experiments.job import Job, in_turn, sentence
        from nashsolve.integrations.experiments.recipe import find_recipe, load_recipe, recipe_files
        from nashsolve.integrations.experiments.runner import run as run_recipe

        changes = _settings(setting or [])
        if name == ALL_MINIATURE:
            every = [load_recipe(file) for file in recipe_files(recipes).values()]
            chosen = in_turn([recipe for recipe in every if recipe.scale == "miniature"])
        else:
            chosen = [find_recipe(name, recipes)]
        if dry_run:
            told = [_dry_run(recipe, device, changes, as_json) for recipe in chosen]
            if as_json:
                emit({"runs": told, "exit_code": 0})
            return
        told = []

        def do(recipe: Any) -> Any:
            found = run_recipe(
                recipe,
                out / recipe.name,
                device=device,
                jobs=jobs,
                fresh=fresh,
                tensorboard=tensorboard,
                show=not quiet,
                changes=changes,
                data_parallel=data_parallel,
            )
            told.append(_tell(recipe, found, as_json))
            return found

        if name == ALL_MINIATURE:
            job = Job(out, device)
            job.run(chosen, do)
            if not as_json:
                typer.echo(sentence(job.note))
        else:
            do(chosen[0])
        if as_json:
            emit({"runs": told, "exit_code": 0})


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that `run --out` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and its pictures.")] = Path("report"),
    recipes: Annotated[Path | None, RECIPES] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """One page: our numbers beside the paper's, paired differences, curves, and a verdict for every claim."""
    with guarded(as_json):
        from nashsolve.integrations.experiments.report import build

        page = build(results, out, recipes)
        if as_json:
            emit({"page": str(page), "exit_code": 0})
        else:
            typer.echo(f"wrote {page}")


def _settings(words: list[str]) -> dict[str, Any]:
    from nashsolve.integrations.checkpoints.strict_yaml import load_text

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word!r} is not KEY=YAML, such as seeds=3 or systems=[smear, namex]")
        found[key] = load_text(value, f"--set {key}")
    return found


def _tell(recipe: Any, found: Any, as_json: bool) -> dict[str, Any]:
    if not as_json:
        typer.echo(f"{recipe.name}: {found.units - found.left} of {found.units} units in {found.folder}")
        for claim in found.claims:
            typer.echo(f"  {claim.verdict}: {claim.text} [{claim.measured}] {claim.reason}")
    return {
        "recipe": recipe.name,
        "folder": str(found.folder),
        "units": found.units,
        "left": found.left,
        "seconds": round(found.seconds, 1),
        "claims": [claim.to_dict() for claim in found.claims],
    }


def _dry_run(recipe: Any, device: str, changes: dict[str, Any], as_json: bool) -> dict[str, Any]:
    from nashsolve.integrations.experiments.book import Book
    from nashsolve.integrations.experiments.runner import check_device, one_thread

    settings = recipe.chosen(device, **changes)
    lines = list(plan_lines(recipe, settings))
    study = recipe.load_study()
    check_device("cpu")
    with tempfile.TemporaryDirectory() as folder, one_thread("cpu"):
        book = Book(folder)
        study.run(study.reduced(settings), book)
        lines.append(f"reduced: {len(book.units())} units ran in {sum(r['seconds'] for r in book.records()):.1f} s")
    if not as_json:
        typer.echo("\n".join(lines))
    return {"recipe": recipe.name, "plan": lines}
