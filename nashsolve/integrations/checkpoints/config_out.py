"""The config of the output: every key that speaks of experts follows, and what cannot follow is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .adapters import Adapter, expert_count
from .dtypes import RECIPE_NAMES
from .recipe import ExpertsRecipe


@dataclass(frozen=True)
class ConfigChange:
    """New config, sentences about it, reasons why it cannot be made, and the routing groups that groups must keep."""

    config: dict[str, Any]
    notes: tuple[str, ...]
    unsupported: tuple[str, ...]
    routing_groups: int


def change_config(config: Mapping[str, Any], adapter: Adapter, recipe: ExpertsRecipe, kept: int) -> ConfigChange:
    """Number of experts, top_k, group limits and dtype after the merge."""
    keys = adapter.config
    new = dict(config)
    before = expert_count(config, adapter)
    notes, unsupported = [], []
    new |= {name: kept for name in keys.num_experts if name in config}
    groups = int(config.get(keys.groups) or 1) if keys.groups else 1
    if groups > 1 and keys.groups and keys.top_groups:
        if kept == 1:
            new[keys.groups] = new[keys.top_groups] = 1
            notes.append(f"{keys.groups} and {keys.top_groups} become 1: one expert has no groups")
            groups = 1
        elif kept % groups or before % groups:
            unsupported.append(
                f"{keys.groups} is {groups}, which does not divide {kept} experts; choose a multiple of {groups}, or 1"
            )
        else:
            notes.append(f"experts are merged within the {groups} routing groups of {keys.groups}, which stay")
    per_group = kept // groups
    if adapter.scoring == "sigmoid" and per_group < 2:
        unsupported.append(
            f"{adapter.name} scores a routing group by its two best experts; {per_group} would be left in each"
        )
    if keys.top_k:
        reach = per_group * int(new.get(keys.top_groups) or 1) if groups > 1 and keys.top_groups else kept
        old = int(config.get(keys.top_k) or 1)
        wanted = old if recipe.top_k == "keep" else recipe.top_k
        new[keys.top_k] = min(wanted, reach)
        if recipe.top_k != "keep" and wanted > reach:
            unsupported.append(f"top_k is {wanted}, but only {reach} experts can be chosen")
        elif new[keys.top_k] != old:
            notes.append(f"{keys.top_k}: {old} becomes {new[keys.top_k]}")
        _mass_note(config, adapter, old, new[keys.top_k], before, kept, notes)
    elif recipe.top_k != "keep":
        unsupported.append(f"{adapter.name} has no top_k to change")
    return ConfigChange(set_dtype(new, recipe.dtype), tuple(notes), tuple(unsupported), groups)


def set_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """`config` with the format of the output in whichever key it uses."""
    if dtype in RECIPE_NAMES:
        key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
        config[key] = dtype
    return config


def _mass_note(
    config: Mapping[str, Any], adapter: Adapter, old: int, new: int, before: int, kept: int, notes: list[str]
) -> None:
    keys = adapter.config
    normalized = config.get(keys.normalize, adapter.normalize_default) if keys.normalize else adapter.normalize_default
    if not normalized and adapter.scoring == "softmax" and kept < before:
        notes.append(
            f"the router does not renormalise its top {old}: with {kept} experts the chosen {new} carry more weight "
            "than before"
        )
