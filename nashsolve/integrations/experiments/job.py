"""All recipes in one job, and the note that says how long it took and whether it did everything itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..checkpoints.disk import publish
from .header import cores
from .recipe import Recipe
from .runner import Outcome

NOTE = "all-miniature.json"


def in_turn(recipes: Sequence[Recipe]) -> list[Recipe]:
    """In the order of names, those that time last: nothing else of the job runs beside them."""
    return sorted(recipes, key=lambda recipe: (recipe.alone, recipe.name))


class Job:
    """Runs recipes one after another and notes their times in ``all-miniature.json``.

    Parameters
    ----------
    out : folder of the results, one folder a recipe
    device : "cpu" or "cuda"
    """

    def __init__(self, out: Path, device: str) -> None:
        self.path = out / NOTE
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()
        self.note: dict[str, Any] = {
            "device": device.partition(":")[0],
            "cores": cores(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipes": {},
            "complete": False,
        }

    def run(self, recipes: Sequence[Recipe], do: Callable[[Recipe], Outcome]) -> list[Outcome]:
        """Every recipe in turn; the note is written after each, and says complete after the last.

        Parameters
        ----------
        recipes : of the job
        do : runs one
        """
        done = []
        for recipe in in_turn(recipes):
            began, cpu = time.perf_counter(), _cpu_seconds()
            done.append(do(recipe))
            self.note["recipes"][recipe.name] = {
                "units": done[-1].units,
                "found": done[-1].found,
                "left": done[-1].left,
                "seconds": round(time.perf_counter() - began, 1),
                "cpu_seconds": round(_cpu_seconds() - cpu, 1),
            }
            self._save()
        self.note["complete"] = all(outcome.left == 0 for outcome in done)
        self._save()
        return done

    def _save(self) -> None:
        self.note |= {
            "seconds": round(time.perf_counter() - self._began, 1),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 1),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        publish(self.path, (json.dumps(self.note, indent=2) + "\n").encode())


def read_note(folder: Path) -> dict[str, Any] | None:
    """What the last job in a folder of results noted; None where there was none."""
    path = folder / NOTE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def sentence(note: dict[str, Any]) -> str:
    """How long a job took, what of it was there before, and how much of its time it had the processor."""
    found = sum(entry["found"] for entry in note["recipes"].values())
    units = sum(entry["units"] for entry in note["recipes"].values())
    head = f"all-miniature ran {len(note['recipes'])} recipes with {units:,} units"
    head += " in one job" if not found else f", of which {found:,} had a result before"
    times = (
        f"{note['seconds'] / 60:.0f} minutes of wall clock, {note['cpu_seconds'] / 60:.0f} minutes of processor time"
    )
    end = "" if note["complete"] else "; it did not finish"
    return f"{head}: {times} on {note['cores']} {'core' if note['cores'] == 1 else 'cores'} ({note['device']}){end}."


def _cpu_seconds() -> float:
    """Of this process and those of its children that have ended."""
    return sum(os.times()[:4])
