"""The folder of one run: which units are finished, their numbers, curves and pictures, shared by several processes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nashsolve.core.errors import MissingExtra

from ..checkpoints.disk import publish
from . import lines
from .claiming import claimed
from .team import ALONE, Team

RECORDS, CURVES, UNITS = "records.jsonl", "curves.jsonl", "units.json"
PROGRESS, _LOCKS, _WORK = ".progress", ".locks", "work"


class Book:
    """What a study writes into.

    Parameters
    ----------
    folder : of the run; made where absent
    device : "cpu", "cuda" or "cuda:1"; the study puts its tensors there
    tensorboard : also log curves for TensorBoard, into ``folder/tensorboard``
    team : ranks that do every unit together; the leader writes
    """

    def __init__(self, folder: str | Path, device: str = "cpu", tensorboard: bool = False, team: Team = ALONE) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device, self.team = device, team
        self._tensorboard = tensorboard
        self._writers: dict[str, Any] = {}
        self._began = (time.perf_counter(), time.process_time())
        self._told = 0.0

    def todo(self, keys: Iterable[str]) -> Iterator[str]:
        """The units among `keys` that are left, each given to one process only; do one, `record` it, take the next.

        A unit that another process holds is left to it; one whose process died is given out again by the next run.
        The leader of a team gives every unit to all its ranks.
        """
        if self.team.leads:
            for key in self._mine(list(keys)):
                yield self.team.say(key)
            self.team.say(None)
            return
        while (key := self.team.say()) is not None:
            self._began = (time.perf_counter(), time.process_time())
            yield key

    def _mine(self, keys: list[str]) -> Iterator[str]:
        self._announce(keys)
        for key in keys:
            if self.finished(key):
                continue
            with claimed(self.folder / _LOCKS, key) as mine:
                if mine and not self.finished(key):
                    self._began = (time.perf_counter(), time.process_time())
                    yield key

    def finished(self, key: str) -> bool:
        """Whether `key` has a record."""
        return any(record.get("key") == key for record in self.records())

    def record(self, key: str, **numbers: Any) -> None:
        """The result of a unit, one line of records.jsonl: its numbers, and the seconds since `todo` gave it out.

        Parameters
        ----------
        key : such as "namex/3": system and seed
        **numbers : numbers, texts, lists and dicts; what is not finite is stored as null
        """
        wall, cpu = self._began
        seconds = {
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
        }
        if self.team.leads:
            lines.append(self.folder / RECORDS, {"key": key, **numbers, **({} if "seconds" in numbers else seconds)})
            shutil.rmtree(self._work(key), ignore_errors=True)
        for writer in self._writers.values():
            writer.flush()
        self.team.wait()

    def records(self) -> list[dict[str, Any]]:
        """Every result so far, in the order in which they came."""
        return lines.read(self.folder / RECORDS)

    def results(self) -> list[dict[str, Any]]:
        """Records of the units that are asked for; others are left from a run with more seeds."""
        asked = set(self.units())
        return [record for record in self.records() if record.get("key") in asked]

    def curve(self, key: str, step: int, **numbers: Any) -> None:
        """One point of a curve, a line of curves.jsonl. A step logged again after a kill replaces its point."""
        if not self.team.leads:
            return
        lines.append(self.folder / CURVES, {"key": key, "step": step, **numbers})
        if self._tensorboard:
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._writer(key).add_scalar(name, value, step)

    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """Key -> points in order of their steps."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for point in lines.read(self.folder / CURVES):
            found.setdefault(point["key"], {})[point["step"]] = point
        return {key: [points[step] for step in sorted(points)] for key, points in found.items()}

    def picture(self, name: str, figure: Any) -> Path:
        """Write matplotlib axes or a figure as ``name.png``; returns the path."""
        path = self.folder / f"{name}.png"
        getattr(figure, "figure", figure).savefig(path, dpi=110)
        return path

    def progress(self, key: str, done: int, total: int) -> None:
        """Tell the bar how far a unit is; cheap enough for every step."""
        now = time.monotonic()
        if now - self._told < 0.5:
            return
        self._told = now
        folder = self.folder / PROGRESS
        folder.mkdir(exist_ok=True)
        (folder / str(os.getpid())).write_text(json.dumps({"key": key, "share": done / max(total, 1)}))

    def work(self, key: str) -> Path:
        """A folder for what a unit needs to resume; removed when its result is recorded."""
        path = self._work(key)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def shared(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file that several units need, such as a pretrained model: made once, others wait for it.

        Parameters
        ----------
        name : of the file
        make : writes a file, or a folder, to the path that it is given; all ranks of a team call it
        """
        path = self.folder / _WORK / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(self.folder / _LOCKS, f"shared {name}", wait=True) if self.team.leads else nullcontext():
            if not self.team.say(path.exists()):
                aside = path.with_name(f"new{self.team.rank}-{path.name}")
                _remove(aside)
                make(aside)
                if self.team.leads:
                    aside.replace(path)
                else:
                    _remove(aside)
            self.team.wait()
        return path

    def units(self) -> list[str]:
        """Every unit that `todo` was asked about."""
        path = self.folder / UNITS
        return list(json.loads(path.read_text())) if path.exists() else []

    def left(self) -> list[str]:
        """Units without a record."""
        done = {record.get("key") for record in self.records()}
        return [key for key in self.units() if key not in done]

    def _work(self, key: str) -> Path:
        return self.folder / _WORK / key.replace("/", "--")

    def _announce(self, keys: list[str]) -> None:
        with claimed(self.folder / _LOCKS, "units", wait=True):
            known = self.units()
            new = [key for key in keys if key not in known]
            if new:
                publish(self.folder / UNITS, json.dumps(known + new).encode())

    def _writer(self, key: str) -> Any:
        if key not in self._writers:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingExtra("tensorboard", "experiments") from None
            self._writers[key] = SummaryWriter(str(self.folder / "tensorboard" / key))
        return self._writers[key]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
