"""Commands that read headers or recipes and write nothing but a recipe: init, inspect, plan, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..arguments import JSON
from ..exits import emit
from .exits import guarded

RECIPE = typer.Argument(metavar="RECIPE", help="YAML file; `nashsolve merge init` writes one, mergekit's form is read.")
MEMORY = typer.Option(metavar="SIZE", help="Bound on the memory of the process, such as 2GiB or 500MB.")


def init(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of the checkpoint.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here instead of printing it.")] = None,
    num_experts_out: Annotated[int | None, typer.Option(help="Experts left in a layer; half by default.")] = None,
    merge_method: Annotated[str, typer.Option(help="The rule to write down.")] = "nash",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a first recipe for MODEL."""
    with guarded(as_json):
        from nashsolve.integrations.checkpoints.recipe import load_recipe
        from nashsolve.integrations.checkpoints.starting import init as first_recipe
        from nashsolve.integrations.checkpoints.strict_yaml import load_text

        text = first_recipe(model, num_experts_out=num_experts_out, merge_method=merge_method)
        load_recipe(load_text(text, "recipe"))
        if out is not None:
            with out.open("x", encoding="utf-8") as stream:
                stream.write(text)
        if as_json:
            emit({"recipe": text, "written": None if out is None else str(out), "exit_code": 0})
        else:
            typer.echo(text if out is None else f"wrote {out}")


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the checkpoint.")],
    architecture: Annotated[Path | None, typer.Option(help="YAML file with an adapter of your own.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what MODEL holds, from its headers alone."""
    with guarded(as_json):
        from nashsolve.integrations.checkpoints.adapters import load_adapter
        from nashsolve.integrations.checkpoints.inspection import inspect as look

        found = look(model, (load_adapter(str(architecture)),) if architecture else ())
        if as_json:
            emit({**found.to_dict(), "exit_code": 0})
        else:
            typer.echo(str(found))


def plan(
    recipe: Annotated[Path, RECIPE],
    max_memory: Annotated[str, MEMORY] = "2GiB",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder, to check its free space.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what RECIPE would do, need and leave, before a weight is read."""
    with guarded(as_json):
        from nashsolve.integrations.checkpoints.planning import plan as make

        made = make(recipe, max_memory=max_memory, out=out)
        code = 1 if made.unsupported else 0
        if as_json:
            emit({**made.to_dict(), "exit_code": code})
        else:
            typer.echo(str(made))
        if code:
            raise typer.Exit(code)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from nashsolve.integrations.checkpoints.recipe import schema as make

    typer.echo(json.dumps(make(), indent=2))
