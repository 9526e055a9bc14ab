"""`nashsolve experiment`: it only collects the commands."""

from __future__ import annotations

import typer

from .acting import report, run
from .endings import EPILOG
from .looking import list_recipes

experiment = typer.Typer(
    name="experiment",
    help="The paper's tables and figures as recipes: in miniature on two cores, in full on your GPUs.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
experiment.command("list", epilog=EPILOG)(list_recipes)
for command in (run, report):
    experiment.command(epilog=EPILOG)(command)
