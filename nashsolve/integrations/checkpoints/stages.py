"""The stages of a run, under its lock: recover, solve, write, publish."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import disk, memory
from .arithmetic import choose
from .errors import CheckpointRefused, OutputFailed
from .finish import names as small_names
from .finish import publish_all
from .journal import COMPLETE, Journal, begin
from .outputs import OutFile
from .plans import Plan
from .producing import Producer
from .ranks import Alone
from .reader import Reader
from .recipe import ExpertsRecipe
from .reporting import report_of
from .solving import LayerSolver, SolvedLayer
from .tasks import SolvedUnit, TaskSolver
from .writer import FileWriter, sha256_of

Progress = Callable[[str, int, int, str], None]
"""Called with phase, bytes done, bytes in all, and the last status line."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    out: str
    files: dict[str, str]
    statuses: dict[str, int]
    resumed_problems: int = 0
    resumed_files: int = 0
    already_complete: bool = False
    seconds: float = 0.0
    bytes_read: int = 0
    peak_memory_bytes: int = 0
    ranks: int = 1
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class Run:
    """The state of one run."""

    plan: Plan
    out: Path
    reader: Reader
    group: Alone
    progress: Progress
    before: int
    device: str
    paranoid: bool
    layers: dict[int, SolvedLayer] = field(default_factory=dict)
    units: dict[str, SolvedUnit] = field(default_factory=dict)
    done: int = 0
    line: str = ""

    def all(self) -> Result:
        """Everything under the lock, which rank 0 holds for all."""
        self.identity = identity = self._identity()
        names = {file.name for file in self.plan.files} | small_names()
        journal, lock, complete = self._together(lambda: begin(self.out, identity, names), keep=True)
        self.journal = Journal(self.out, self.group.rank)
        try:
            if complete:
                return self._already()
            return self._work(journal)
        finally:
            if lock is not None:
                lock.release()

    def _work(self, journal: Journal) -> Result:
        arithmetic = choose(self.device)
        state = self._together(lambda: self._recover(journal))
        self._solve(arithmetic, state)
        written = self._write(state)
        self.group.wait()
        hashes = self._together(lambda: self._publish(journal))
        return Result(
            out=self.out.name,
            files=hashes,
            statuses=self._statuses(),
            resumed_problems=len(state["solved"]),
            resumed_files=len(self.plan.files) - written,
            ranks=self.group.size,
            device=arithmetic.name,
        )

    def _identity(self) -> dict[str, Any]:
        found = self.plan.identity()
        if self.paranoid:
            sources = self.plan.sources
            full = [{n: sha256_of(s.path / n) for n in s.files} for s in sources] if self.group.rank == 0 else None
            found["input_sha256"] = self.group.share(full)
        return found

    def _together(self, action: Callable[[], Any], keep: bool = False) -> Any:
        """Rank 0 acts, all get the result or the error; with `keep` the others get only the last value."""
        found: Any = None
        error: Exception | None = None
        if self.group.rank == 0:
            try:
                found = action()
            except Exception as caught:
                error = caught
        if self.group.size > 1:
            sent = (None, None, found[2] if found else None) if keep else found
            mine = found
            found, error = self.group.share((sent, error))
            if keep and self.group.rank == 0:
                found = mine
        if error is not None:
            raise error
        return found

    def _recover(self, journal: Journal) -> dict[str, Any]:
        """What of an earlier run holds: solved problems, and files whose bytes still have the journal's hash."""
        state: dict[str, Any] = {"solved": {}, "files": {}}
        for record in journal.records():
            if record.get("kind") == "solved":
                state["solved"][record["key"]] = record["value"]
            elif record.get("kind") == "file" and record.get("name") in {f.name for f in self.plan.files}:
                path = self.out / record.get("part", record["name"])
                if not path.is_file():
                    path = self.out / record["name"]
                if path.is_file() and not path.is_symlink() and sha256_of(path) == record["sha256"]:
                    state["files"][record["name"]] = record["sha256"]
                else:
                    state["files"].pop(record["name"], None)
        return state

    def _solve(self, arithmetic: Any, state: dict[str, Any]) -> None:
        if isinstance(self.plan.recipe, ExpertsRecipe):
            solver = LayerSolver(self.plan, self.reader, arithmetic, self.group, self.journal.folder, self._tick)
            for k in range(len(self.plan.layers)):
                key = str(k)
                if key not in state["solved"]:
                    solved = self.group.share(solver.solve(k))
                    self._record(key, asdict(solved))
                    self.layers[k] = solved
                else:
                    self.layers[k] = SolvedLayer.from_dict(state["solved"][key])
                self._tell("solve", f"layer {k + 1}/{len(self.plan.layers)}: {_worst(self.layers[k].records)}")
            return
        tasks = TaskSolver(self.plan, self.reader, arithmetic, self.group, self._tick)
        units = tasks.units()
        for unit in units:
            if unit not in state["solved"]:
                found = self.group.share(tasks.solve(unit))
                self._record(unit, asdict(found))
                self.units[unit] = found
            else:
                self.units[unit] = SolvedUnit(**state["solved"][unit])
            self._tell("solve", f"{len(self.units)}/{len(units)} problems: {_worst([self.units[unit].record])}")

    def _record(self, key: str, value: dict[str, Any]) -> None:
        self.group.wait()
        if self.group.rank == 0:
            self.journal.append({"kind": "solved", "key": key, "value": value})
        memory.check(self.plan.max_memory, self.before)

    def _write(self, state: dict[str, Any]) -> int:
        """This rank's share of the files; returns how many files of the plan were left to write."""
        todo = [file for file in self.plan.files if file.name not in state["files"]]
        is_moe = isinstance(self.plan.recipe, ExpertsRecipe)
        tasks = None if is_moe else TaskSolver(self.plan, self.reader, None, self.group, self._tick)  # type: ignore[arg-type]
        producer = Producer(self.plan, self.reader, self.journal.folder, self.layers, self.units, tasks)
        for i, file in enumerate(todo):
            if i % self.group.size == self.group.rank:
                self._write_file(producer, file)
                self._tell("write", f"{i + 1}/{len(todo)} files: {file.name}")
        return len(todo)

    def _write_file(self, producer: Producer, file: OutFile) -> None:
        with FileWriter(self.out, file) as writer:
            for tensor in file.tensors:
                for chunk in producer.chunks(tensor):
                    writer.put(chunk)
                    self.done += chunk.nbytes
                self._tell("write", tensor.name)
                memory.check(self.plan.max_memory, self.before)
            self.reader.check_unchanged()
            digest = writer.finish()
        record = {"kind": "file", "name": file.name, "sha256": digest}
        if self._sharded:
            disk.replace(writer.aside, writer.final)
        else:
            disk.sync_folder(self.out)
            record["part"] = writer.aside.name
        self.journal.append(record)

    @property
    def _sharded(self) -> bool:
        """One file alone keeps its side name to the end: its own name would make the folder look finished."""
        return (self.plan.sources[0].sharded and self.plan.recipe.max_shard_size == "keep") or len(self.plan.files) > 1

    def _publish(self, journal: Journal) -> dict[str, str]:
        hashes: dict[str, str] = {}
        parts: dict[str, str] = {}
        for record in journal.records():
            if record.get("kind") == "file":
                hashes[record["name"]] = record["sha256"]
                parts[record["name"]] = record.get("part", "")
        missing = [file.name for file in self.plan.files if file.name not in hashes]
        if missing:
            raise OutputFailed(
                0, f"{len(missing)} files were not written: {', '.join(missing[:5])}; run again to resume"
            )
        self.reader.check_unchanged()
        report = report_of(self.plan, self.layers, self.units)
        hashes = {file.name: hashes[file.name] for file in self.plan.files}
        aside = None if self._sharded else self.out / parts[self.plan.files[0].name]
        publish_all(self.plan, self.out, self.identity, report, hashes, aside)
        self.done = self.plan.output_bytes + sum(self.plan.expert_bytes) + self.plan.input_bytes
        self._tell("done", self.line)
        journal.clear()
        return hashes

    def _already(self) -> Result:
        """A finished folder is believed only when its bytes still have the hashes of the mark."""
        mark = json.loads((self.out / COMPLETE).read_text())
        wrong = [n for n, digest in mark["sha256"].items() if not _matches(self.out / n, digest)]
        if wrong:
            raise CheckpointRefused(
                f"the output was complete, but {', '.join(wrong[:5])} changed since; merge into a new folder"
            )
        files = {f.name: mark["sha256"][f.name] for f in self.plan.files}
        return Result(self.out.name, files, {}, already_complete=True, resumed_files=len(files))

    def _statuses(self) -> dict[str, int]:
        records = [r for layer in self.layers.values() for r in layer.records]
        records += [layer.chain for layer in self.layers.values() if layer.chain]
        records += [unit.record for unit in self.units.values()]
        return dict(Counter(r["status"] for r in records if r["status"]))

    def _tick(self, nbytes: int) -> None:
        self.done += nbytes
        self._tell("solve", self.line)

    def _tell(self, phase: str, line: str) -> None:
        self.line = line
        total = self.plan.output_bytes + sum(self.plan.expert_bytes[:1] or (0,))
        if self.plan.recipe.job == "task_vectors" and self.plan.problems:
            total += self.plan.input_bytes
        self.progress(phase, min(self.done, total), total, line)


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256_of(path) == digest


def _worst(records: list[dict[str, Any]]) -> str:
    """Statuses of the last problems and the largest error bound."""
    counts = Counter(r["status"] for r in records if r["status"])
    if not counts:
        return "nothing to solve"
    bounds = [r["error_bound"] for r in records if r.get("error_bound") is not None]
    worst = f", error at most {max(bounds):.1e}" if bounds else ""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + worst
