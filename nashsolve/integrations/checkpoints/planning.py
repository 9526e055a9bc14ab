"""Planning from headers alone: everything that can be known before a weight is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from . import memory
from .config_out import set_dtype
from .dtypes import FLOATS, ITEMSIZE
from .errors import CheckpointRefused
from .folder import open_checkpoint
from .hub import locate
from .outputs import task_outputs, unit_of
from .planning_experts import plan_experts
from .plans import Plan
from .recipe import ExpertsRecipe, TaskRecipe, check_solver, load_recipe


def plan(recipe: Any, *, max_memory: str | int = memory.DEFAULT, out: str | os.PathLike[str] | None = None) -> Plan:
    """Plan a merge from headers alone.

    Parameters
    ----------
    recipe : path of a YAML file, a mapping, or a recipe
    max_memory : bound of the run, bytes or a text like 2GiB
    out : folder of the output; with it, free disk space is checked

    Returns
    -------
    Plan

    Raises
    ------
    CheckpointRefused, MissingExtra, OSError
    """
    read = load_recipe(recipe)
    check_solver(read)
    bound = memory.parse_size(max_memory)
    made = plan_experts(read, bound) if isinstance(read, ExpertsRecipe) else _plan_tasks(read, bound)
    problems = [*made.unsupported, *filter(None, [made.shortage])]
    if out is not None:
        free = free_bytes(Path(out))
        need = made.output_bytes + made.scratch_bytes
        if need > free:
            problems.append(f"the run needs {need} bytes of disk, and {free} are free")
    return Plan(**{**made.__dict__, "unsupported": tuple(problems)})


def _plan_tasks(recipe: TaskRecipe, bound: int) -> Plan:
    base = open_checkpoint(locate(recipe.base_model, recipe.revision))
    models = [open_checkpoint(locate(m.model, m.revision)) for m in recipe.models]
    if not any(t.dtype in FLOATS for t in base.tensors.values()):
        raise CheckpointRefused(f"{base.name} has no floating-point tensor to merge")
    files = task_outputs(base, models, per=recipe.per, dtype=recipe.dtype, shard_size=recipe.max_shard_size)
    units = {unit_of(t.name, recipe.per) for t in base.tensors.values() if t.dtype in FLOATS}
    solves = recipe.merge_method == "nash"
    largest = max(ITEMSIZE[t.dtype] for t in base.tensors.values())
    peak = max(memory.gram_bytes(len(models) + 2, largest), memory.combine_bytes() * (2 + len(models) // 4))
    copied = sum(t.dtype not in FLOATS for t in base.tensors.values())
    statements = [f"{len(models)} models and their base {base.name}", *recipe.notes]
    if copied:
        statements.append(f"{copied} tensors are not floating-point and must be equal in all models")
    return Plan(
        recipe=recipe,
        sources=(base, *models),
        files=files,
        config=set_dtype(dict(base.config), recipe.dtype),
        problems=len(units) if solves else 0,
        problem_sizes=f"{len(models)} players" if solves else f"merge_method {recipe.merge_method} solves none",
        peak_bytes=memory.resident() + memory.margin() + peak,
        max_memory=bound,
        statements=tuple(statements),
    )


def free_bytes(path: Path) -> int:
    """Free space where `path` is, or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
