"""The typer application: it only collects the commands, which live one a file."""

from __future__ import annotations

import typer

from .compare import compare
from .crosscheck import crosscheck
from .demo import demo
from .doctor import doctor
from .exits import EPILOG
from .experiment.app import experiment
from .merge.app import merge
from .plot import plot
from .solve import solve
from .verify import verify

app = typer.Typer(
    name="nashsolve",
    help="Nash bargaining (not Nash equilibria): solve, verify and compare, always with a certificate.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (solve, verify, crosscheck, compare, plot, doctor, demo):
    app.command(epilog=EPILOG)(command)
app.add_typer(merge)
app.add_typer(experiment)
