"""The last steps of a run: small files beside the weights, the index last of all, then the completion mark."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nashsolve import __version__

from . import disk
from .folder import INDEX, Checkpoint
from .journal import COMPLETE
from .outputs import OutFile
from .plans import Plan
from .recipe import ExpertsRecipe

REPORT = "nashsolve_report.json"
RECIPE = "nashsolve_recipe.yaml"
CARD = "README.md"

ALLOWED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "generation_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
)
"""Files copied beside the weights; everything else stays behind, code above all."""

MAX_COPY = 64 * 2**20
_CODE_KEYS = ("auto_map", "model_file", "custom_pipelines")


def small_files(plan: Plan, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Name and content of everything but weights, index and mark; the same for the same plan and weights."""
    config = {key: value for key, value in plan.config.items() if key not in _CODE_KEYS}
    found = {name: data for name in ALLOWED if (data := _copied(plan.sources[0], name)) is not None}
    found["config.json"] = _json(config)
    found[RECIPE] = yaml.safe_dump(plan.identity()["recipe"], sort_keys=False).encode()
    found[REPORT] = _json(report)
    found[CARD] = card(plan).encode()
    return found


def _copied(source: Checkpoint, name: str) -> bytes | None:
    """A regular file of bounded size, never a link."""
    path = source.path / name
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_COPY:
            return None
        return stream.read()


def index_of(files: tuple[OutFile, ...]) -> bytes:
    """The index of a sharded output."""
    size = sum(tensor.nbytes for file in files for tensor in file.tensors)
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    return _json({"metadata": {"total_size": size}, "weight_map": weight_map})


def names() -> set[str]:
    """Everything besides weights that a run may write."""
    return {*ALLOWED, "config.json", RECIPE, REPORT, CARD, INDEX, COMPLETE}


def publish_all(
    plan: Plan,
    out: Path,
    identity: Mapping[str, Any],
    report: Mapping[str, Any],
    hashes: dict[str, str],
    aside: Path | None,
) -> None:
    """Small files, then what makes the folder load, then the mark: in this order, each durable before the next.

    Parameters
    ----------
    identity : of the plan, with what a paranoid run adds
    hashes : of the weight files by name
    aside : side name of a single weight file, which gets its own name instead of an index; None for shards
    """
    contents = small_files(plan, report)
    for name, content in contents.items():
        disk.publish(out / name, content)
    if aside is None:
        contents[INDEX] = index_of(plan.files)
        disk.publish(out / INDEX, contents[INDEX])
    elif aside.exists():
        disk.replace(aside, out / plan.files[0].name)
    small = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    mark = {
        "status": "complete",
        "tool": f"nashsolve {__version__}",
        "plan": dict(identity),
        "sha256": dict(sorted({**hashes, **small}.items())),
    }
    disk.publish(out / COMPLETE, _json(mark))


def card(plan: Plan) -> str:
    """A model card with what was done, in the form that model hubs read."""
    recipe = plan.recipe
    names = [source.name for source in plan.sources]
    kind = "moe" if isinstance(recipe, ExpertsRecipe) else "task-vectors"
    lines = ["---", "base_model:", *(f"- {json.dumps(name)}" for name in names)]
    lines += ["library_name: transformers", "tags:", "- merge", f"- {kind}", "- nashsolve", "---", ""]
    if plan.layers:
        before = plan.layers[0].num_experts
        lines += [
            f"# {names[0]} with {plan.experts_out} of {before} experts a layer",
            "",
            f"The routed experts of each of the {len(plan.layers)} Mixture-of-Experts layers were merged in groups by "
            f"`{recipe.merge_method}`. {plan.statements[0][0].upper()}{plan.statements[0][1:]}.",
        ]
    else:
        lines += [
            f"# {names[0]} with {len(names) - 1} fine-tunes merged",
            "",
            f"The differences of the fine-tunes from {names[0]} were merged by `{recipe.merge_method}`.",
        ]
    lines += [
        "",
        "Merging without further training usually costs quality. Compare this model with its sources, and with a plain "
        "mean made by the same recipe with `merge_method: mean`, before you use it.",
        "",
        f"Made by nashsolve {__version__} from this recipe:",
        "",
        "```yaml",
        yaml.safe_dump(plan.identity()["recipe"], sort_keys=False).rstrip(),
        "```",
        "",
        f"`{REPORT}` holds coefficients, statuses and certificates of every merge, `{COMPLETE}` all hashes.",
        "",
    ]
    return "\n".join(lines)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
