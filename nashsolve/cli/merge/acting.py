"""Commands about outputs: run, verify, report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..arguments import JSON
from ..exits import emit
from .exits import guarded, terminable
from .looking import MEMORY, RECIPE

OUT = typer.Argument(metavar="OUT", help="Folder that `nashsolve merge run` wrote.")


def run(
    recipe: Annotated[Path, RECIPE],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder, or one that this recipe began.")],
    max_memory: Annotated[str, MEMORY] = "2GiB",
    device: Annotated[str, typer.Option(help="auto, cpu, or a device of torch such as cuda:0.")] = "auto",
    on_no_bargain: Annotated[
        str | None, typer.Option(metavar="fail|average|skip", help="Instead of the recipe's on_no_agreement.")
    ] = None,
    paranoid: Annotated[bool, typer.Option("--paranoid", help="Hash the whole input into the plan.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Merge by RECIPE into a new folder; after an interruption, the same command resumes."""
    with guarded(as_json), terminable():
        from nashsolve.integrations.checkpoints.recipe import canonical, load_recipe
        from nashsolve.integrations.checkpoints.running import run as merge

        chosen = load_recipe(recipe)
        if on_no_bargain is not None:
            chosen = load_recipe({**canonical(chosen), "on_no_agreement": on_no_bargain})
        first = int(os.environ.get("RANK", "0")) == 0
        with Bar(show=first and not quiet) as bar:
            found = merge(chosen, out, max_memory=max_memory, device=device, paranoid=paranoid, progress=bar.update)
        if not first:
            return
        if as_json:
            emit({**found.to_dict(), "exit_code": 0})
        else:
            typer.echo(_summary(found))


def verify(
    out: Annotated[Path, OUT],
    recipe: Annotated[Path | None, typer.Option(help="The recipe, to compare with the sources.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Tensors computed again from the sources.")] = 32,
    seed: Annotated[int, typer.Option(help="Which tensors.")] = 0,
    load: Annotated[bool | None, typer.Option("--load/--no-load", help="Load with transformers and run.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Check OUT from the outside: hashes, names, numbers, a sample computed again, a forward pass."""
    with guarded(as_json):
        from nashsolve.integrations.checkpoints.verifying import verify as check

        found = check(out, recipe, sample=sample, seed=seed, load=load)
        code = 0 if found.ok else 1
        if as_json:
            emit({**found.to_dict(), "exit_code": code})
        else:
            typer.echo(str(found))
        if code:
            raise typer.Exit(code)


def report(
    out: Annotated[Path, OUT],
    html: Annotated[Path | None, typer.Option(help="The page; default OUT.html beside the folder.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a self-contained page about OUT: coefficients, cosines, gains, certificates, sizes, hashes."""
    with guarded(as_json):
        from nashsolve.integrations.checkpoints.report_page import report as make

        target = html if html is not None else out.with_name(out.name + ".html")
        data = make(out, target)
        if as_json:
            emit({**data, "html": str(target), "exit_code": 0})
        else:
            typer.echo(f"wrote {target}")


def _summary(found: Any) -> str:
    if found.already_complete:
        return f"{found.out} is complete already, and its bytes are what they were"
    statuses = ", ".join(f"{count} {name}" for name, count in found.statuses.items()) or "nothing to solve"
    resumed = f"; resumed with {found.resumed_problems} problems and {found.resumed_files} files done"
    return (
        f"{found.out} is complete: {len(found.files)} files, {statuses}, {found.seconds:.1f} s, peak memory "
        f"{found.peak_memory_bytes / 2**20:.0f} MiB{resumed if found.resumed_problems or found.resumed_files else ''}"
    )


class Bar:
    """A progress bar with rate, remaining time and the last status line, on stderr."""

    def __init__(self, show: bool) -> None:
        from tqdm import tqdm

        often = 0.2 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(disable=not show, unit="B", unit_scale=True, unit_divisor=1024, mininterval=often)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, phase: str, done: int, total: int, line: str) -> None:
        """Move on."""
        self._bar.total = total
        self._bar.set_description(phase, refresh=False)
        self._bar.set_postfix_str(line[-60:], refresh=False)
        self._bar.update(done - self._bar.n)
