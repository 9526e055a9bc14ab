"""Does an output hold what it should: hashes, names, numbers, a sample computed again, and a model that runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import memory
from .adapters import whole
from .dtypes import EPS, FLOATS, decode
from .errors import CheckpointRefused
from .finish import REPORT
from .folder import Checkpoint, open_checkpoint
from .header import show
from .journal import COMPLETE, WORK
from .planning import plan
from .plans import Plan
from .reader import Reader
from .recomputing import Recomputer
from .vectors import check_finite, chunks
from .writer import sha256_of

FORWARD_LIMIT = 2 * 2**30
"""Larger outputs are loaded only on request, for loading takes their whole size in memory."""


@dataclass
class Verification:
    """Sentences about what was checked, and the problems found."""

    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, "checks": self.checks, "problems": self.problems}

    def __str__(self) -> str:
        lines = [f"ok       {text}" for text in self.checks]
        lines += [f"PROBLEM  {text}" for text in self.problems]
        return "\n".join(lines)


def verify(
    out: str | os.PathLike[str],
    recipe: Any = None,
    *,
    sample: int = 32,
    seed: int = 0,
    load: bool | None = None,
) -> Verification:
    """Check a finished output from the outside.

    Parameters
    ----------
    out : the folder
    recipe : the recipe with the places of the sources; without it nothing can be compared with them
    sample : tensors computed again from the sources
    seed : which tensors
    load : load with transformers and run a forward pass; None does so where it is installed and the model is small

    Returns
    -------
    Verification

    Raises
    ------
    CheckpointRefused
        The folder is not a finished output at all.
    """
    folder = Path(out)
    mark = _mark(folder)
    found = Verification()
    _hashes(folder, mark, found)
    try:
        checkpoint = open_checkpoint(folder)
    except (CheckpointRefused, OSError) as refusal:
        found.problems.append(str(refusal))
        return found
    _second_opinion(checkpoint, found)
    _numbers(checkpoint, found)
    if recipe is not None:
        made = plan(recipe)
        _planned(checkpoint, made, mark, found)
        if found.ok:
            _sample(checkpoint, made, found, sample, seed)
    else:
        found.checks.append("not compared with the sources: no recipe was given")
    if load or (load is None and checkpoint.total_bytes <= FORWARD_LIMIT):
        from .loading import load_and_run

        load_and_run(checkpoint, found, required=bool(load))
    return found


def _mark(folder: Path) -> dict[str, Any]:
    path = folder / COMPLETE
    if not path.is_file():
        begun = (folder / WORK).is_dir()
        what = "was begun but is not complete; run the merge again to resume it" if begun else f"has no {COMPLETE}"
        raise CheckpointRefused(f"{folder.name} {what}")
    try:
        found = json.loads(path.read_text())
        if found["status"] != "complete" or not isinstance(found["sha256"], dict):
            raise KeyError("status")
    except (ValueError, KeyError, TypeError):
        raise CheckpointRefused(f"{folder.name}/{COMPLETE} is damaged") from None
    return dict(found)


def _hashes(folder: Path, mark: dict[str, Any], found: Verification) -> None:
    wrong = 0
    for name, digest in sorted(mark["sha256"].items()):
        path = folder / name
        if os.path.basename(name) != name or path.is_symlink() or not path.is_file():
            found.problems.append(f"{show(name)} is missing")
        elif sha256_of(path) != digest:
            found.problems.append(f"{name} changed since it was written")
        else:
            continue
        wrong += 1
    strange = sorted(p.name for p in folder.glob("*.safetensors") if p.name not in mark["sha256"])
    found.problems += [f"{show(name)} was not written by the merge" for name in strange]
    if not wrong:
        found.checks.append(f"{len(mark['sha256'])} files have the hashes of the completion mark")


def _second_opinion(checkpoint: Checkpoint, found: Verification) -> None:
    """The safetensors library must read the same names and shapes."""
    try:
        from safetensors import safe_open
    except ImportError:
        found.checks.append("headers not compared with the safetensors library: it is not installed")
        return
    for name in checkpoint.files:
        ours = {t.name: list(t.shape) for t in checkpoint.tensors.values() if t.file == name}
        with safe_open(os.fspath(checkpoint.path / name), framework="np") as other:
            theirs = {key: list(other.get_slice(key).get_shape()) for key in other.keys()}  # noqa: SIM118
        if ours != theirs:
            found.problems.append(f"{name}: the safetensors library reads other tensors than we do")
            return
    found.checks.append("headers agree with the safetensors library")


def _numbers(checkpoint: Checkpoint, found: Verification) -> None:
    with Reader([checkpoint]) as reader:
        for tensor in checkpoint.tensors.values():
            if tensor.dtype not in FLOATS:
                continue
            segment = whole(tensor)
            for _, start, count in chunks((("", tensor.size),), memory.CHUNK):
                try:
                    check_finite(reader.read(tensor, start, count), segment, start)
                except CheckpointRefused as refusal:
                    found.problems.append(str(refusal).partition(";")[0])
                    break
    if found.ok:
        found.checks.append(f"{len(checkpoint.tensors)} tensors are finite")


def _planned(checkpoint: Checkpoint, made: Plan, mark: dict[str, Any], found: Verification) -> None:
    wanted = {t.name: (t.dtype, t.shape) for file in made.files for t in file.tensors}
    have = {t.name: (t.dtype, t.shape) for t in checkpoint.tensors.values()}
    for name in sorted(wanted.keys() | have.keys()):
        if wanted.get(name) != have.get(name):
            found.problems.append(f"tensor {show(name)} is {have.get(name)}, planned was {wanted.get(name)}")
    if checkpoint.config != {k: v for k, v in made.config.items() if k in checkpoint.config}:
        found.problems.append("config.json is not the planned one")
    if mark.get("plan", {}).get("inputs") != json.loads(json.dumps(made.identity()["inputs"])):
        found.problems.append("the sources of this recipe are not those that the output was made from")
    if found.ok:
        found.checks.append(f"{len(wanted)} names, shapes and formats, and the config, are as planned")


def _sample(checkpoint: Checkpoint, made: Plan, found: Verification, sample: int, seed: int) -> None:
    """Tensors drawn at random, and for each the same range computed anew in float64."""
    report = json.loads((checkpoint.path / REPORT).read_text())
    tensors = [t for file in made.files for t in file.tensors]
    chosen = np.random.default_rng(seed).permutation(len(tensors))[:sample]
    done = 0
    with Reader(made.sources) as sources, Reader([checkpoint]) as reader:
        recomputer = Recomputer(made, sources, report)
        for i in sorted(int(c) for c in chosen):
            out = checkpoint.tensors[tensors[i].name]
            if out.dtype not in FLOATS:
                continue
            for start, expected in recomputer.parts(tensors[i]):
                got = decode(reader.read(out, start, expected.values.size), out.dtype).astype(np.float64)
                allowed = EPS[out.dtype] * np.abs(expected.values) + expected.noise
                off = np.abs(got - expected.values) > allowed
                if off.any():
                    at = start + int(np.argmax(off))
                    found.problems.append(
                        f"tensor {show(out.name)}: entry {at} is {got[at - start]:.6g}, computed again it is "
                        f"{expected.values[at - start]:.6g}"
                    )
                    break
            done += 1
    if found.ok:
        found.checks.append(f"{done} tensors computed again from the sources agree")
