"""Commands that change nothing: list, and the plan of a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..arguments import JSON
from ..exits import emit
from ..tables import show
from .endings import guarded

RECIPES = typer.Option(metavar="DIR", help="Folder with recipes; default the package's own.")


def list_recipes(
    recipes: Annotated[Path | None, RECIPES] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Every recipe: what it mirrors, its size, its expected cost."""
    with guarded(as_json):
        from nashsolve.integrations.experiments.recipe import load_recipe, recipe_files

        found = [load_recipe(file) for file in recipe_files(recipes).values()]
        if as_json:
            emit({"recipes": [recipe.model_dump(mode="json") for recipe in found], "exit_code": 0})
            return
        rows = [["recipe", "mirrors", "size", "on", "minutes"]]
        for r in found:
            rows.append([r.name, ", ".join(r.mirrors), r.size, r.cost.hardware, f"{r.cost.minutes:,.0f}"])
        show(rows)


def plan_lines(recipe: Any, settings: Any) -> Iterator[str]:
    """What a run would do."""
    from nashsolve.integrations.experiments.study import optional

    yield f"{recipe.name}: {recipe.title}"
    yield f"mirrors {', '.join(recipe.mirrors)}; {recipe.size}; data: {recipe.data}"
    for title, cost in (("cost", recipe.cost), ("cost with --device cuda", recipe.cuda_cost)):
        if cost is not None:
            yield f"{title}: {cost.minutes:,.0f} min on {cost.hardware}, {cost.memory_gib:g} GiB ({cost.known_by})"
    plan = optional(recipe.load_study(), "plan")
    yield from () if plan is None else plan(settings)
