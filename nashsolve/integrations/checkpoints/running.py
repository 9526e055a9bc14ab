"""A run: solve, write, publish; killed at any point it continues where it stopped, to the same bytes."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from . import memory
from .errors import CheckpointRefused, MemoryExceeded, OutputFailed
from .planning import free_bytes, plan
from .plans import Plan
from .ranks import join
from .reader import Reader
from .stages import Progress, Result, Run


def run(
    recipe: Any,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = memory.DEFAULT,
    device: str = "auto",
    paranoid: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Merge what the recipe says into a new folder, or continue an interrupted run of the same recipe there.

    Parameters
    ----------
    recipe : path of a YAML file, a mapping, or a recipe
    out : folder of the output; new, empty, or begun by this very recipe
    max_memory : bound on the memory of the process, bytes or a text like 2GiB; planned for and checked
    device : auto (a GPU where there is one), cpu, or a device of torch such as cuda:0, for the inner products
    paranoid : hash the whole input into the plan, so that a resumed run proves that it is the same
    progress : called often with phase, bytes done, bytes in all, and a status line

    Returns
    -------
    Result

    Raises
    ------
    CheckpointRefused
        Input or recipe; nothing is published.
    SolverStopped
        A bargaining problem without an agreement, unless the recipe says what to do then.
    OutputFailed, MemoryExceeded, LockHeld, ResumeMismatch, MissingExtra
    """
    begun, before = time.perf_counter(), memory.peak()
    made = plan(recipe, max_memory=max_memory)
    folder = Path(out)
    _check_folders(made, folder)
    _check_possible(made, folder)
    group = join()
    try:
        with Reader([*made.sources]) as reader:
            work = Run(made, folder, reader, group, progress or _silent, before, device, paranoid)
            found = work.all()
    finally:
        group.close()
    return Result(
        **{
            **found.__dict__,
            "seconds": time.perf_counter() - begun,
            "bytes_read": reader.bytes_read,
            "peak_memory_bytes": memory.peak(),
        }
    )


def _check_possible(made: Plan, out: Path) -> None:
    """Refuse before anything is written what the plan knows to be impossible."""
    if made.shortage:
        raise MemoryExceeded(made.shortage)
    if made.unsupported:
        raise CheckpointRefused("; ".join(made.unsupported))
    begun = sum(path.stat().st_size for path in out.glob("*.safetensors")) if out.is_dir() else 0
    free, need = free_bytes(out), made.output_bytes + made.scratch_bytes - begun
    if need > free:
        raise OutputFailed(errno.ENOSPC, f"the run needs {need} bytes of disk, and {free} are free")


def _silent(phase: str, done: int, total: int, line: str) -> None:
    pass


def _check_folders(made: Plan, out: Path) -> None:
    """The output must not be an input, lie inside one, or contain one."""
    target = out.resolve()
    for source in made.sources:
        folder = source.path.resolve()
        if target == folder or folder in target.parents or target in folder.parents:
            raise CheckpointRefused(f"the output folder {out.name} and the input {folder.name} lie in each other")
    known = {(os.stat(s.path / f.name).st_dev, f.inode) for s in made.sources for f in s.files.values()}
    for file in made.files:
        path = target / file.name
        if path.exists() and (os.stat(path).st_dev, os.stat(path).st_ino) in known:
            raise CheckpointRefused(f"{file.name} in the output folder is the same file as an input (a hard link)")
