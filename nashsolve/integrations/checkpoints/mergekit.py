"""Recipes of mergekit for fine-tunes of one base, read into ours; what has no counterpart is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from .errors import CheckpointRefused
from .header import show

METHODS = {
    "linear": "mean",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "dare_linear": "dare",
    "dare_ties": "dare_ties",
    "nash": "nash",
}
"""mergekit's words, and ours."""

_TOP = ("models", "base_model", "merge_method", "parameters", "dtype", "out_dtype")
_ENTRY = ("model", "parameters")
_NORMALIZED = ("linear", "ties", "dare_ties", "nash")
_SPARSE = ("ties", "dare_linear", "dare_ties")
_WITHOUT_EFFECT = {"int8_mask": "masks are never stored here", "rescale": "dare always rescales"}


def from_mergekit(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The keys of a TaskRecipe that mean the same.

    Raises
    ------
    CheckpointRefused
        Slices, gradients over layers, per-filter values, tokenizer surgery, and keys that mergekit does not have.
    """
    if "slices" in data:
        raise CheckpointRefused(f"{source}: slices (stacking layers) is not merging and is not supported; use models")
    _known(data, _TOP, source)
    method = data.get("merge_method")
    if method not in METHODS:
        near = get_close_matches(str(method), METHODS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CheckpointRefused(f"{source}: merge_method is {show(method)}; choose one of {', '.join(METHODS)}.{hint}")
    if not data.get("base_model"):
        raise CheckpointRefused(f"{source}: base_model is missing; task vectors are differences from it")
    shared = _parameters(data.get("parameters"), ("weight", "density", "normalize", "lambda"), source, "parameters")
    notes = shared.pop("notes")
    members = _members(data, shared, str(method), source)
    found: dict[str, Any] = {
        "job": "task_vectors",
        "base_model": data["base_model"],
        "models": members,
        "merge_method": METHODS[str(method)],
        "dtype": data.get("out_dtype") or data.get("dtype") or "keep",
    }
    if method not in ("linear", "nash"):
        found["normalize"] = bool(shared.get("normalize", method in _NORMALIZED))
    elif "normalize" in shared and not shared["normalize"]:
        raise CheckpointRefused(f"{source}: normalize: false has no counterpart for {method}")
    if "lambda" in shared:
        found["scaling_factor"] = shared["lambda"]
    return {**found, "notes": [f"read as a mergekit recipe, merge_method {method}", *notes]}


def _members(data: Mapping[str, Any], shared: dict[str, Any], method: str, source: str) -> list[dict[str, Any]]:
    entries = data.get("models")
    if not isinstance(entries, list) or not entries:
        raise CheckpointRefused(f"{source}: models is {show(entries)}; a list of models is needed")
    members = []
    for i, entry in enumerate(entries):
        place = f"models.{i}"
        if not isinstance(entry, Mapping):
            raise CheckpointRefused(f"{source}: {place} is {show(entry)}; a mapping with the key model is needed")
        _known(entry, _ENTRY, f"{source}: {place}")
        own = _parameters(entry.get("parameters"), ("weight", "density"), source, place)
        own.pop("notes")
        if entry.get("model") == data["base_model"]:
            if own:
                raise CheckpointRefused(f"{source}: {place} is the base model itself; it takes no parameters")
            continue
        values = {name: shared[name] for name in ("weight", "density") if name in shared} | own
        if "density" in values and method not in _SPARSE:
            raise CheckpointRefused(f"{source}: {place}: density has no effect on {method}")
        members.append({"model": entry.get("model"), **values})
    return members


def _known(data: Mapping[str, Any], names: tuple[str, ...], source: str) -> None:
    for key in data:
        if key not in names:
            near = get_close_matches(str(key), names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise CheckpointRefused(f"{source}: the key {show(key)} is not supported.{hint} Keys: {', '.join(names)}.")


def _parameters(value: Any, names: tuple[str, ...], source: str, place: str) -> dict[str, Any]:
    """Scalars only: a list is a gradient over layers or a filter, which this tool does not have."""
    if value is None:
        return {"notes": []}
    if not isinstance(value, Mapping):
        raise CheckpointRefused(f"{source}: {place} is {show(value)}; a mapping is needed")
    notes = [f"{key} has no effect: {_WITHOUT_EFFECT[key]}" for key in value if key in _WITHOUT_EFFECT]
    rest = {key: item for key, item in value.items() if key not in _WITHOUT_EFFECT}
    _known(rest, names, f"{source}: {place}")
    for key, item in rest.items():
        wanted = bool if key == "normalize" else (int, float)
        if not isinstance(item, wanted) or (wanted is not bool and isinstance(item, bool)):
            raise CheckpointRefused(f"{source}: {place}.{key} is {show(item)}; one value for all layers is supported")
    return {**rest, "notes": notes}
