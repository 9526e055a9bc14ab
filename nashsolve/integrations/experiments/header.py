"""``run.json``: what a folder of results belongs to, and on what it was computed."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from nashsolve.core.errors import InvalidProblem, NashSolveError

from ..checkpoints.disk import publish
from ..torch_moe.strict import Strict
from .book import UNITS
from .lines import plain
from .recipe import Recipe

HEADER = "run.json"
BEAT = 10.0
"""Seconds between two notes of the time spent: what a kill loses of it at most."""


class ExperimentFailed(NashSolveError):
    """A unit of an experiment ended with an error; what is finished stays, and the same command goes on from there."""

    exit_code = 3


def open_run(folder: Path, recipe: Recipe, settings: Strict, device: str) -> dict[str, Any]:
    """Begin a folder, or check that it was begun with the same settings; only the number of seeds may change.

    Raises
    ------
    InvalidProblem
        Where the folder holds another run: results of different settings must not mix.
    """
    wanted: dict[str, Any] = {
        "recipe": recipe.name,
        "study": recipe.study,
        "device": device.partition(":")[0],
        "settings": plain(settings.model_dump(mode="json")),
    }
    path = folder / HEADER
    if path.exists():
        found = read_header(folder)
        if "seeds" in wanted["settings"] and found["settings"].get("seeds") != wanted["settings"]["seeds"]:
            # Units are announced anew: with fewer seeds some are no longer asked for, with more some are left.
            found["settings"]["seeds"] = wanted["settings"]["seeds"]
            (folder / UNITS).unlink(missing_ok=True)
            save_header(folder, found)
        for key, value in wanted.items():
            if found.get(key) != value:
                raise InvalidProblem(
                    f"{folder} was begun with {_difference(found.get(key), value, key)}; give another --out, or "
                    "--fresh to begin it anew"
                )
        return found
    folder.mkdir(parents=True, exist_ok=True)
    header = {**wanted, **_machine(device), "jobs": 0, "wall_seconds": 0.0, "complete": False}
    save_header(folder, header)
    return header


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder of results."""
    return dict(json.loads((folder / HEADER).read_text(encoding="utf-8")))


def differences(header: dict[str, Any], recipe: Recipe) -> str:
    """What of a run's settings is not the recipe's now, as "seeds = 3, not 5"; empty where nothing is."""
    found, wanted = header["settings"], plain(recipe.chosen(header["device"]).model_dump(mode="json"))
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return "; ".join(_difference(found.get(name), wanted.get(name), name) for name in names)


def save_header(folder: Path, header: dict[str, Any]) -> None:
    """Replace the header as a whole."""
    publish(folder / HEADER, (json.dumps(header, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def clocked(folder: Path, every: float = BEAT) -> Iterator[None]:
    """Add the block's wall-clock seconds to the header's while it runs, so that the time before a kill counts, too."""
    over = Event()
    last = time.perf_counter()

    def note() -> None:
        nonlocal last
        now = time.perf_counter()
        header = read_header(folder)
        save_header(folder, header | {"wall_seconds": round(header["wall_seconds"] + now - last, 3)})
        last = now

    def beat() -> None:
        while not over.wait(every):
            note()

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        note()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine(device: str) -> dict[str, Any]:
    import torch

    import nashsolve

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    versions = {"nashsolve": nashsolve.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"hardware": name, "cores": cores(), "versions": versions}


def _difference(found: Any, wanted: Any, key: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(set(found) | set(wanted)):
            if found.get(name) != wanted.get(name):
                return f"{name} = {found.get(name)!r}, not {wanted.get(name)!r}"
    return f"{key} = {found!r}, not {wanted!r}"
