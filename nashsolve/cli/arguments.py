"""The arguments that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import typer

FILE = typer.Argument(
    metavar="FILE",
    help=".json or .npz with the keys vectors or gram, weights, disagreement, radius, metric, names, "
    "gram_error; "
    ".npy, .csv or a .json list with one matrix: a Gram (n, n), or with --vectors one row a player. "
    "In .csv a header names the players of a Gram; for vectors a first column that is not numeric does, "
    "and a header is skipped. .yaml with the key family states every other kind of problem.",
)
VECTORS = typer.Option("--vectors", help="A bare matrix holds utility vectors, one row a player, not a Gram.")
WEIGHTS = typer.Option(metavar="LIST|FILE", help="Bargaining power: 1,2,3 or a .json, .npy or .csv file.")
DISAGREEMENT = typer.Option(metavar="LIST|FILE", help="Utilities without agreement; needs a radius.")
RADIUS = typer.Option(help="Radius of the ball; default sqrt(sum of weights).")
JSON = typer.Option("--json", help="One JSON object on stdout, in failure too.")
