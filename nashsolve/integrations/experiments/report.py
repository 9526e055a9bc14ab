"""One page of everything that was run: tables beside the paper's numbers, curves, and a verdict for every claim."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nashsolve.core.errors import InvalidProblem

from .book import Book
from .header import HEADER, differences, read_header
from .job import NOTE, read_note, sentence
from .recipe import Recipe, find_recipe, load_recipe, recipe_files
from .runner import CLAIMS
from .study import Claim, optional

PAGE, PICTURES = "results.md", "pictures"
_ORDER = ("reproduced", "not reproduced", "not testable here")


def build(results: str | Path, out: str | Path, recipes: Path | None = None) -> Path:
    """Write the page.

    Parameters
    ----------
    results : folder that holds one folder a recipe, or one of these
    out : gets results.md, and its pictures in a folder of their own
    recipes : folder with the recipes; by default the package's own

    Returns
    -------
    path of the page, in Markdown

    Raises
    ------
    InvalidProblem
        Where there are no results.
    """
    results, out = Path(results), Path(out)
    folders = [results] if (results / HEADER).exists() else sorted(f.parent for f in results.glob(f"*/{HEADER}"))
    if not folders:
        raise InvalidProblem(f"{results} holds no results; run  nashsolve experiment run NAME --out {results}  first")
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    runs = [_Run(folder, recipes) for folder in folders]
    runs.sort(key=lambda run: _natural(run.recipe.name))
    lines = ["# What the experiments gave", "", *_summary(runs, results, out)]
    if len(runs) > 1:
        lines += _missing({run.recipe.name for run in runs}, recipes)
    for run in runs:
        lines += run.section(out)
    path = out / PAGE
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def _missing(there: set[str], recipes: Path | None) -> list[str]:
    """Miniatures without a result, by name."""
    every = [load_recipe(file) for file in recipe_files(recipes).values()]
    names = sorted((r.name for r in every if r.scale == "miniature" and r.name not in there), key=_natural)
    return [f"**No result of {', '.join(names)} is here.**", ""] if names else []


def _natural(name: str) -> list[Any]:
    """x2 before x10."""
    return [part.rjust(4, "0") if part[1:].isdigit() else part for part in name.split("-")] + [name]


class _Run:
    """One folder of results."""

    def __init__(self, folder: Path, recipes: Path | None) -> None:
        self.folder = folder
        self.header = read_header(folder)
        self.recipe: Recipe = find_recipe(self.header["recipe"], recipes)
        self.records = Book(folder).results()
        self.study = self.recipe.load_study()
        path = folder / CLAIMS
        self.claims = [Claim(**c) for c in json.loads(path.read_text())] if path.exists() else []

    @property
    def cpu_minutes(self) -> float:
        return sum(record.get("cpu_seconds", 0.0) for record in self.records) / 60

    def section(self, out: Path) -> Iterator[str]:
        """Title, set-up, tables, pictures, claims."""
        recipe, header = self.recipe, self.header
        yield f"## {recipe.title}"
        yield ""
        state = "" if header["complete"] else " **This run is not complete.**"
        other = differences(header, recipe)
        state += f" **It was run with other settings than the recipe has now: {other}.**" if other else ""
        yield (
            f"`nashsolve experiment run {recipe.name}` mirrors {', '.join(recipe.mirrors)}: {recipe.size}; "
            f"{recipe.data}. {len(self.records)} units, {self.cpu_minutes:.1f} core minutes on {header['hardware']} "
            f"({header['device']}).{state}"
        )
        yield ""
        draw = optional(self.study, "tables") if header["complete"] else None
        for table in [] if draw is None else draw(self.records):
            yield table.markdown()
        for picture in sorted(self.folder.glob("*.png")):
            name = f"{recipe.name}-{picture.name}"
            shutil.copyfile(picture, out / PICTURES / name)
            yield f"![{recipe.title}: {picture.stem}]({PICTURES}/{name})"
            yield ""
        yield from _claims(self.claims)


def _claims(claims: list[Claim]) -> Iterator[str]:
    if not claims:
        return
    yield "| claim | the paper | measured | verdict | because |"
    yield "| --- | --- | --- | --- | --- |"
    for claim in claims:
        cells = (claim.text, claim.paper, claim.measured, f"**{claim.verdict}**", claim.reason)
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    yield ""


def _summary(runs: list[_Run], results: Path, out: Path) -> Iterator[str]:
    yield (
        f"This page is printed by `nashsolve experiment report {results.as_posix()} --out {out.as_posix()}` from the "
        "committed records. *Reproduced* and *not reproduced* refer to the claim at the size that was run here: a "
        "difference whose paired 95 % interval holds zero counts as noise."
    )
    yield ""
    note = read_note(results)
    if note is not None:
        yield f"`nashsolve experiment run {Path(NOTE).stem} --out {results.as_posix()}`: {sentence(note)}"
        yield ""
    yield "| recipe | mirrors | units | core minutes | " + " | ".join(_ORDER) + " |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    total: Counter[str] = Counter()
    for run in runs:
        found = Counter[str](claim.verdict for claim in run.claims)
        total.update(found)
        counts = " | ".join(str(found[verdict]) for verdict in _ORDER)
        mirrors = ", ".join(run.recipe.mirrors)
        yield f"| {run.recipe.name} | {mirrors} | {len(run.records)} | {run.cpu_minutes:.1f} | {counts} |"
    counts = " | ".join(str(total[verdict]) for verdict in _ORDER)
    units, minutes = sum(len(run.records) for run in runs), sum(run.cpu_minutes for run in runs)
    yield f"| all | | {units} | {minutes:.1f} | {counts} |"
    yield ""
