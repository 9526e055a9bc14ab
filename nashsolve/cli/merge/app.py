"""`nashsolve merge`: it only collects the commands."""

from __future__ import annotations

import typer

from .acting import report, run, verify
from .exits import EPILOG
from .looking import init, inspect, plan, schema

merge = typer.Typer(
    name="merge",
    help="Merge checkpoints: the experts inside a Mixture-of-Experts model, or fine-tunes of one model.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (init, inspect, plan, run, verify, report, schema):
    merge.command(epilog=EPILOG)(command)
