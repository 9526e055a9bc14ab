"""Saved states of a team: the leader's whole, of each other rank what differs, and only steps that all have count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nashsolve.core.errors import InvalidProblem

from .saving import STATE, load_state, save_state
from .team import Team

_NAME = re.compile(r"rank(\d+)of(\d+)-step(\d+)\.safetensors")


def save_together(
    folder: Path,
    team: Team,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    **more: Any,
) -> None:
    """As `save_state`, one file a rank; earlier ones go when every rank has written its own."""
    path = folder / f"rank{team.rank}of{team.size}-step{step}.safetensors"
    save_state(path, model, optimizer, generator, step, whole=team.leads, **more)
    team.wait()
    for rank, _, other, file in _found(folder):
        if rank == team.rank and other != step:
            file.unlink()


def load_together(
    folder: Path, team: Team, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> tuple[int, dict[str, Any]] | None:
    """As `load_state`, from the last step that every rank has saved; None where there is none.

    Raises
    ------
    InvalidProblem
        Where the state is of a team of another size.
    """
    _refuse_others(folder, team.size)
    mine = {step for rank, _, step, _ in _found(folder) if rank == team.rank}
    common = set.intersection(*team.ask(mine))
    if not common:
        return None
    step = max(common)
    found = load_state(folder / f"rank0of{team.size}-step{step}.safetensors", model, optimizer, generator)
    if not team.leads:
        load_state(folder / f"rank{team.rank}of{team.size}-step{step}.safetensors", model, None, generator)
    return found


def refuse_parts(folder: Path) -> None:
    """Raise InvalidProblem where one process would go on with a team's state."""
    _refuse_others(folder, 1)


def _refuse_others(folder: Path, size: int) -> None:
    sizes = {found for _, found, _, _ in _found(folder)} | ({1} if (folder / STATE).exists() else set())
    for other in sorted(sizes - {size}):
        ranks = "one process" if other == 1 else f"{other} ranks"
        raise InvalidProblem(f"{folder.name} was begun by {ranks}; go on with as many, or begin anew with --fresh")


def _found(folder: Path) -> list[tuple[int, int, int, Path]]:
    """(rank, size of the team, step, file) of every saved state."""
    names = [(file, _NAME.fullmatch(file.name)) for file in sorted(folder.iterdir())]
    return [(int(n[1]), int(n[2]), int(n[3]), file) for file, n in names if n is not None]
