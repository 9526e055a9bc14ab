"""Planning a merge of experts: sizes, problems, and every reason not to begin."""

from __future__ import annotations

from pathlib import Path

from . import memory
from .adapters import Adapter, MoeLayer, choose_adapter, find_layers, load_adapter
from .config_out import change_config
from .dtypes import FLOATS, ITEMSIZE, RECIPE_NAMES
from .folder import Checkpoint, open_checkpoint, read_header
from .hub import locate
from .inspection import itemsize
from .outputs import OutFile, expert_outputs
from .plans import Plan
from .recipe import ExpertsRecipe


def plan_experts(recipe: ExpertsRecipe, bound: int) -> Plan:
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
