"""Run a recipe: in this process, in one for every core or GPU, or as the ranks that torchrun started."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nashsolve.core.errors import InvalidProblem

from ..checkpoints.disk import publish
from ..torch_moe.strict import Strict
from .book import PROGRESS, Book
from .header import ExperimentFailed, clocked, cores, open_run, read_header, save_header
from .recipe import Recipe
from .study import Claim, load_study, optional
from .team import ALONE, Team, joined
from .watching import watched

CLAIMS = "claims.json"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes
    ----------
    folder : of the results
    units, left : all units, and those without a result (another process may be at them)
    found : units that had a result before this call
    claims : judged where nothing is left
    seconds : of this call
    """

    folder: Path
    units: int
    left: int
    found: int
    claims: list[Claim]
    seconds: float


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str = "cpu",
    jobs: int | None = None,
    fresh: bool = False,
    tensorboard: bool = False,
    show: bool = True,
    changes: dict[str, Any] | None = None,
    data_parallel: bool = False,
) -> Outcome:
    """Do what is left of a recipe; the same call goes on after a kill.

    Parameters
    ----------
    recipe : what to run
    folder : of the results
    device : "cpu" or "cuda"
    jobs : processes, each with one thread; None takes one for every core, or one for every GPU
    fresh : remove what the folder holds first
    tensorboard : log curves for TensorBoard, too
    show : progress bar
    changes : settings on top of the recipe's
    data_parallel : torchrun's ranks train every unit together, each on its share of the batch, instead of sharing the
        units

    Returns
    -------
    Outcome

    Raises
    ------
    InvalidProblem
        For settings that the study refuses, or a folder that holds a run with other settings.
    ExperimentFailed
        Where a unit ended with an error.
    """
    folder, begun = Path(folder), time.perf_counter()
    settings = recipe.chosen(device, **(changes or {}))
    rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if fresh and world > 1:
        raise InvalidProblem("--fresh does not go with torchrun, where one rank would remove another's work")
    if fresh and folder.exists():
        _remove(folder)
    check_device(device)
    here = _device_of(device, rank)
    with _team(recipe.study, here) if data_parallel else nullcontext(ALONE) as team:
        if team.leads:
            open_run(folder, recipe, settings, device)
        team.wait()
        many = _jobs(device, jobs, recipe.alone) if world == 1 and team.size == 1 else 1
        book = Book(folder, here, tensorboard, team)
        before = len(book.results())
        first = rank == 0 and team.leads
        with clocked(folder) if first else nullcontext(), watched(book, recipe.name, show and first):
            if many == 1:
                with one_thread(device):
                    load_study(recipe.study).run(settings, book)
            else:
                _run_processes(recipe.study, settings, folder, device, many, tensorboard)
        left = book.left()
        team.wait()
        claims = [] if left or not team.leads else close(book, recipe, settings)
        if team.leads and (rank == 0 or not left):
            ranks = {"data_parallel": team.size} if team.size > 1 else {}
            save_header(folder, read_header(folder) | {"jobs": max(many, world), "complete": not left, **ranks})
        units = len(book.units())
        team.wait()
    return Outcome(folder, units, len(left), before, claims, time.perf_counter() - begun)


@contextmanager
def _team(study: str, device: str) -> Iterator[Team]:
    """The ranks together, for a study whose batches divide."""
    if not optional(load_study(study), "DIVISIBLE"):
        raise InvalidProblem(
            f"the study {study!r} does not divide its batches; run its recipes without --data-parallel"
        )
    with joined(device) as team:
        yield team


def close(book: Book, recipe: Recipe, settings: Strict) -> list[Claim]:
    """Judge a finished run, draw its pictures, and remove what only resuming needed."""
    study = load_study(recipe.study)
    found = study.claims(book.results())
    publish(book.folder / CLAIMS, (json.dumps([c.to_dict() for c in found], indent=2) + "\n").encode())
    draw = optional(study, "pictures")
    if draw is not None:
        for name, axes in draw(book.results(), book.curves()).items():
            book.picture(name, axes)
    for name in ("work", PROGRESS, ".locks"):
        shutil.rmtree(book.folder / name, ignore_errors=True)
    return found


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """One thread on a CPU, so that sums have one order and a resumed run repeats the first to the last bit."""
    import torch

    before = torch.get_num_threads()
    if not device.startswith("cuda"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """Raise InvalidProblem where there is no such device."""
    import torch

    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InvalidProblem(f"device is {device!r}; 'cpu' or 'cuda' is needed")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidProblem("device is 'cuda', but PyTorch sees no GPU here; use --device cpu")


def _jobs(device: str, jobs: int | None, alone: bool) -> int:
    import torch

    if alone:
        return 1
    limit = torch.cuda.device_count() if device.startswith("cuda") else cores()
    return limit if jobs is None else jobs


def _device_of(device: str, index: int) -> str:
    import torch

    return f"cuda:{index % torch.cuda.device_count()}" if device == "cuda" else device


def _run_processes(study: str, settings: Strict, folder: Path, device: str, many: int, tensorboard: bool) -> None:
    context = get_context("spawn")
    workers = [
        context.Process(target=_work, args=(study, settings.model_dump(), folder, _device_of(device, k), tensorboard))
        for k in range(many)
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    failed = sum(worker.exitcode != 0 for worker in workers)
    if failed:
        raise ExperimentFailed(
            f"{failed} of {many} processes ended with an error, shown above; finished units are kept in {folder}, and "
            "the same command goes on from there"
        )


def _work(study: str, settings: dict[str, Any], folder: Path, device: str, tensorboard: bool) -> None:
    module = load_study(study)
    with one_thread(device):
        module.run(module.Settings(**settings), Book(folder, device, tensorboard))


def _remove(folder: Path) -> None:
    if not (folder / "run.json").exists() and any(folder.iterdir()):
        raise InvalidProblem(f"{folder} holds no run of an experiment; --fresh will not remove it")
    shutil.rmtree(folder)
