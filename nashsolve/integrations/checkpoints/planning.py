"""The plan: everything that can be known before a weight is read, and every reason not to begin."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nashsolve import __version__

from . import memory
from .adapters import Adapter, MoeLayer, choose_adapter, find_layers, load_adapter
from .config_out import change_config, set_dtype
from .dtypes import FLOATS, ITEMSIZE, RECIPE_NAMES
from .errors import CheckpointRefused
from .folder import Checkpoint, open_checkpoint, read_header
from .hub import locate
from .inspection import itemsize
from .outputs import OutFile, expert_outputs, task_outputs, unit_of
from .recipe import ExpertsRecipe, Recipe, TaskRecipe, canonical, check_solver, load_recipe

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a run will do; `unsupported` is empty when it can begin."""

    recipe: Recipe
    sources: tuple[Checkpoint, ...]
    files: tuple[OutFile, ...]
    config: dict[str, Any]
    layers: tuple[MoeLayer, ...] = ()
    adapter: Adapter | None = None
    experts_out: int = 0
    routing_groups: int = 1
    calibration: Checkpoint | None = None
    problems: int = 0
    problem_sizes: str = ""
    expert_bytes: tuple[int, int] = (0, 0)
    scratch_bytes: int = 0
    peak_bytes: int = 0
    max_memory: int = memory.DEFAULT
    statements: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = field(default=())

    @property
    def input_bytes(self) -> int:
        """Tensor bytes of all sources."""
        return sum(source.total_bytes for source in self.sources)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output's weight files."""
        return sum(file.nbytes for file in self.files)

    @property
    def shortage(self) -> str:
        """What the memory bound lacks, empty when it suffices."""
        if self.peak_bytes <= self.max_memory:
            return ""
        need, have = (f"{b / 2**20:.0f} MiB" for b in (self.peak_bytes, self.max_memory))
        return f"the run needs {need} of memory, more than the {have} of --max-memory"

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on where another one stopped; holds no path."""
        recipe = canonical(self.recipe)
        for key in ("model", "base_model", "calibration", "architecture"):
            if recipe.get(key):
                recipe[key] = Path(recipe[key]).name
        for member in recipe.get("models", []):
            member["model"] = Path(member["model"]).name
        return {
            "tool": f"nashsolve {__version__}",
            "recipe": recipe,
            "architecture": self.adapter.model_dump() if self.adapter else None,
            "inputs": [_stamps(source) for source in (*self.sources, *filter(None, [self.calibration]))],
            "outputs": {file.name: {"bytes": file.nbytes, "tensors": len(file.tensors)} for file in self.files},
        }

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "job": self.recipe.job,
            "merge_method": self.recipe.merge_method,
            "moe_layers": len(self.layers),
            "experts_before": self.layers[0].num_experts if self.layers else None,
            "experts_after": self.experts_out or None,
            "expert_bytes_before": self.expert_bytes[0],
            "expert_bytes_after": self.expert_bytes[1],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "output_files": {file.name: file.nbytes for file in self.files},
            "peak_memory_bytes": self.peak_bytes,
            "max_memory_bytes": self.max_memory,
            "disk_bytes": self.output_bytes + self.scratch_bytes,
            "scratch_bytes": self.scratch_bytes,
            "bargaining_problems": self.problems,
            "problem_sizes": self.problem_sizes,
            "statements": list(self.statements),
            "unsupported": list(self.unsupported),
        }

    def __str__(self) -> str:
        lines = []
        if self.layers:
            before = self.layers[0].num_experts
            sizes = " -> ".join(f"{b / GIB:.3f}" for b in self.expert_bytes)
            lines.append(f"experts a layer  {before} -> {self.experts_out} in {len(self.layers)} layers ({sizes} GiB)")
        lines.append(f"weights          {self.input_bytes / GIB:.3f} GiB in, {self.output_bytes / GIB:.3f} GiB out")
        lines.append(f"peak memory      {self.peak_bytes / 2**20:.0f} MiB of {self.max_memory / 2**20:.0f} allowed")
        disk = (self.output_bytes + self.scratch_bytes) / GIB
        lines.append(f"disk             {disk:.3f} GiB, of which scratch {self.scratch_bytes / GIB:.3f}")
        lines.append(f"problems         {self.problems} ({self.problem_sizes})")
        lines += [f"- {text}" for text in self.statements]
        lines += [f"UNSUPPORTED: {text}" for text in self.unsupported]
        return "\n".join(lines)


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
    made = _plan_experts(read, bound) if isinstance(read, ExpertsRecipe) else _plan_tasks(read, bound)
    problems = [*made.unsupported, *filter(None, [made.shortage])]
    if out is not None:
        free = free_bytes(Path(out))
        need = made.output_bytes + made.scratch_bytes
        if need > free:
            problems.append(f"the run needs {need} bytes of disk, and {free} are free")
    return Plan(**{**made.__dict__, "unsupported": tuple(problems)})


def _plan_experts(recipe: ExpertsRecipe, bound: int) -> Plan:
    source = open_checkpoint(locate(recipe.model, recipe.revision))
    own = (load_adapter(recipe.architecture),) if recipe.architecture else ()
    adapter = choose_adapter(source.config, own)
    layers = find_layers(source, adapter)
    before = layers[0].num_experts
    kept, unsupported = _kept(recipe, layers)
    change = change_config(source.config, adapter, recipe, kept)
    statements = [_router_statement(recipe, before, kept), *change.notes]
    unsupported += [*change.unsupported, *_unsupported(recipe, adapter, layers, kept)]
    if any(layer.shared for layer in layers):
        statements.append("shared experts pass unchanged")
    if recipe.layout != "keep" and not adapter.fused:
        unsupported.append(f"{adapter.name} has no fused layout")
        files: tuple[OutFile, ...] = ()
    else:
        files = expert_outputs(
            source, adapter, layers, kept, dtype=recipe.dtype, layout=recipe.layout, shard_size=recipe.max_shard_size
        )
    count, sizes = _problems(recipe, layers, kept)
    old_bytes = sum(y.num_experts * y.size * itemsize(y) for y in layers)
    new_bytes = sum(kept * y.size * _out_itemsize(y, recipe.dtype) for y in layers)
    return Plan(
        recipe=recipe,
        sources=(source,),
        files=files,
        config=change.config,
        layers=layers,
        adapter=adapter,
        experts_out=kept,
        routing_groups=change.routing_groups,
        calibration=_calibration(recipe),
        problems=count,
        problem_sizes=sizes,
        expert_bytes=(old_bytes, new_bytes),
        scratch_bytes=_scratch(recipe, layers),
        peak_bytes=_peak(recipe, layers),
        max_memory=bound,
        statements=tuple(statements),
        unsupported=tuple(unsupported),
    )


def _kept(recipe: ExpertsRecipe, layers: tuple[MoeLayer, ...]) -> tuple[int, list[str]]:
    """Experts left in each layer, and what is wrong with the groups."""
    groups = recipe.groups
    before = layers[0].num_experts
    if groups.by != "given":
        kept = int(groups.num_experts_out or 0)
        wrong = [f"num_experts_out is {kept}, but there are {before} experts"] if kept > before else []
        return min(kept, before), wrong
    lists = groups.given_by_layer if groups.given_by_layer is not None else [groups.given or []] * len(layers)
    wrong = []
    if len(lists) != len(layers):
        wrong.append(f"given_by_layer has {len(lists)} layers, the checkpoint {len(layers)}")
    for k, part in enumerate(lists):
        flat = sorted(e for group in part for e in group)
        if flat != list(range(before)) or not all(part):
            wrong.append(f"groups of layer {k} must hold each of the {before} experts once; they hold {flat[:20]}")
            break
    counts = {len(part) for part in lists}
    if len(counts) > 1:
        wrong.append(f"layers would have {sorted(counts)} experts; config.json has room for one number")
    return max(1, min(counts, default=1)), wrong


def _unsupported(recipe: ExpertsRecipe, adapter: Adapter, layers: tuple[MoeLayer, ...], kept: int) -> list[str]:
    found = []
    for layer in layers:
        dtype = layer.experts[0]["down"].tensor.dtype
        if dtype not in FLOATS:
            found.append(f"experts of {layer.prefix} are stored as {dtype}, which is not a floating-point format")
            break
    uses_shared = recipe.base_expert == "shared" or (recipe.chain is not None and recipe.chain.initial == "shared")
    if uses_shared and not all(_shared_fits(layer) for layer in layers):
        found.append(
            "base_expert shared needs in every layer a shared expert of a whole multiple of the experts' neurons"
        )
    if recipe.router == "keep" and kept != layers[0].num_experts:
        found.append(f"router: keep needs as many experts as before; {kept} of {layers[0].num_experts} are left")
    if recipe.merge_method == "nash" and kept == 1 and recipe.base_expert == "layer_mean":
        found.append(
            "with one expert left, base_expert layer_mean is the mean of the group, from which domain vectors cancel, "
            "so no agreement exists; use zero, shared, dominant or chain"
        )
    if recipe.align == "neurons" and adapter.roles != ("gate", "up", "down"):
        found.append("align: neurons is for gated experts")
    return found


def _shared_fits(layer: MoeLayer) -> bool:
    shared = layer.shared
    return (
        shared is not None
        and shared["up"].rows >= layer.experts[0]["up"].rows
        and (shared["up"].rows % layer.experts[0]["up"].rows == 0)
    )


def _router_statement(recipe: ExpertsRecipe, before: int, kept: int) -> str:
    words = {
        "keep": "stay as they are",
        "mean": "are the means of the group's rows",
        "combine": "are combined with the experts' own coefficients",
        "dominant": "are those of the group's dominant expert",
        "frequency": "are means of the group's rows weighed by use",
    }
    return f"router: {before} rows become {kept}, which {words[recipe.router]}"


def _problems(recipe: ExpertsRecipe, layers: tuple[MoeLayer, ...], kept: int) -> tuple[int, str]:
    before = layers[0].num_experts
    chain = len(layers) if recipe.chain is not None else 0
    if recipe.merge_method != "nash" and not chain:
        return 0, f"merge_method {recipe.merge_method} solves none"
    count = kept * len(layers) if recipe.merge_method == "nash" else 0
    largest = before - kept + 1
    if recipe.groups.by == "given":
        lists = recipe.groups.given_by_layer or [recipe.groups.given or []] * len(layers)
        sizes = [len(group) for part in lists for group in part]
        text = f"{min(sizes)} to {max(sizes)} players" if sizes else ""
    else:
        text = f"1 to {largest} players, decided by the groups during the run"
    return count + chain, f"{text}; the chain adds one of {before} a layer" if chain else text


def _out_itemsize(layer: MoeLayer, dtype: str) -> int:
    return itemsize(layer) if dtype == "keep" else ITEMSIZE[RECIPE_NAMES[dtype]]


def _scratch(recipe: ExpertsRecipe, layers: tuple[MoeLayer, ...]) -> int:
    """The chain keeps the base of every layer, and its momentum, in float32."""
    if recipe.chain is None:
        return 0
    return sum(4 * layer.size for layer in layers) + 12 * max(layer.size for layer in layers)


def _peak(recipe: ExpertsRecipe, layers: tuple[MoeLayer, ...]) -> int:
    rows = max(layer.num_experts for layer in layers) + 2
    size = max(itemsize(layer) for layer in layers)
    parts = [memory.gram_bytes(rows, size), memory.combine_bytes()]
    if recipe.align == "neurons":
        parts += [memory.alignment_bytes(*layer.shape_key[0], len(layer.shape_key)) for layer in layers]
    return memory.resident() + memory.margin() + max(parts)


def _calibration(recipe: ExpertsRecipe) -> Checkpoint | None:
    """The calibration file as a checkpoint of its own."""
    if recipe.calibration is None:
        return None
    path = Path(recipe.calibration)
    header, stamp = read_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    return Checkpoint(path.parent, {}, tensors, {stamp.name: stamp}, header.metadata, False)


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


def _stamps(source: Checkpoint) -> dict[str, Any]:
    files = {f.name: {"size": f.size, "header_sha256": f.header_sha256} for f in source.files.values()}
    return {"name": source.name, "fingerprint": source.fingerprint, "files": files}


def free_bytes(path: Path) -> int:
    """Free space where `path` is, or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
