"""Train, merge, measure: one table and one picture. ``python -m experiments.byte_moe --out DIR [--quick]``"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.byte_moe import model as models
from experiments.byte_moe.picture import draw
from experiments.byte_moe.text import DOMAINS, batches, read
from nashsolve.integrations.checkpoints.recording import record_calibration
from nashsolve.integrations.checkpoints.report_page import report
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify

EXPERT_METHODS = ("nash", "mean", "frequency", "prune")
TASK_METHODS = ("nash", "mean", "task_arithmetic", "ties")
KEPT = (4, 1)


def saved(folder: Path, make: Callable[[], Any]) -> Any:
    """The model of a folder, made and saved there first where it is absent."""
    if not (folder / "config.json").exists():
        make().save_pretrained(folder)
    return models.load(folder)


def train_all(out: Path, steps: int, tuning: int, seed: int) -> None:
    """The base model and its fine-tunes."""

    def base() -> Any:
        model = models.new_model(seed)
        seconds = models.train(model, "library", steps, 3e-3, seed)
        print(f"trained the base for {steps} steps in {seconds:.0f} s")
        return model

    def tuned(kind: str) -> Any:
        model = models.load(out / "base")
        seconds = models.train(model, kind, tuning, 1e-3, seed + 1)
        print(f"tuned on {kind} for {tuning} steps in {seconds:.0f} s")
        return model

    source = saved(out / "base", base)
    for kind in DOMAINS:
        saved(out / kind, lambda kind=kind: tuned(kind))
    if not (out / "calibration.safetensors").exists():
        data = batches(read("library", held_out=False), 8, models.BATCH, models.LENGTH, seed=7)
        tokens = (torch.from_numpy(batch[:, :-1]) for batch in data)
        record_calibration(source, tokens, out / "calibration.safetensors")


def expert_recipe(out: Path, method: str, kept: int) -> dict[str, Any]:
    """All methods share the groups, made from the experts' outputs on training text."""
    found: dict[str, Any] = {
        "job": "experts",
        "model": str(out / "base"),
        "merge_method": method,
        "groups": {"num_experts_out": kept, "on": "outputs"},
        "base_expert": "zero" if kept == 1 else "layer_mean",
        "router": "mean",
        "calibration": str(out / "calibration.safetensors"),
    }
    return found | ({"router": "dominant", "importance": "usage"} if method == "prune" else {})


def task_recipe(out: Path, method: str) -> dict[str, Any]:
    """The three fine-tunes as task vectors."""
    found: dict[str, Any] = {
        "job": "task_vectors",
        "base_model": str(out / "base"),
        "models": [{"model": str(out / kind)} for kind in DOMAINS],
        "merge_method": method,
    }
    if method == "task_arithmetic":
        found |= {"normalize": False, "scaling_factor": 0.5}
    return found | ({"density": 0.5} if method == "ties" else {})


def merged(recipe: dict[str, Any], folder: Path) -> Any:
    """The merged model, checked from the outside before it is measured."""
    run(recipe, folder)
    found = verify(folder, recipe, sample=200, load=False)
    if not found.ok:
        raise SystemExit(str(found))
    report(folder, folder.with_name(folder.name + ".html"))
    return models.load(folder)


def measure(out: Path, count: int) -> dict[str, Any]:
    """Bits per byte of everything."""
    base = models.load(out / "base")
    experts: dict[str, dict[str, float]] = {"source": {"8": models.bits_per_byte(base, "library", count)}}
    for method in EXPERT_METHODS:
        for kept in KEPT:
            model = merged(expert_recipe(out, method, kept), out / f"experts-{method}-{kept}")
            experts.setdefault(method, {})[str(kept)] = models.bits_per_byte(model, "library", count)
    rows = {"base": base, **{f"tuned on {kind}": models.load(out / kind) for kind in DOMAINS}}
    for method in TASK_METHODS:
        rows[f"merged by {method}"] = merged(task_recipe(out, method), out / f"tasks-{method}")
    tasks = {name: {kind: models.bits_per_byte(m, kind, count) for kind in DOMAINS} for name, m in rows.items()}
    return {"experts": experts, "tasks": tasks}


def table(found: dict[str, Any]) -> str:
    """Both tables in Markdown."""
    source = found["experts"]["source"]["8"]
    lines = ["| experts of a layer | 8 | 8 to 4 | 8 to 1 |", "|---|---|---|---|", f"| source | {source:.3f} | | |"]
    lines += [f"| {m} | | {found['experts'][m]['4']:.3f} | {found['experts'][m]['1']:.3f} |" for m in EXPERT_METHODS]
    lines += ["", f"| fine-tunes | {' | '.join(DOMAINS)} | mean |", "|---|---|---|---|---|"]
    for name, row in found["tasks"].items():
        cells = [*(row[kind] for kind in DOMAINS), sum(row.values()) / len(row)]
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Everything, with what is there already kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for models, reports, table and picture")
    parser.add_argument("--steps", type=int, default=300, help="training steps of the base model")
    parser.add_argument("--tuning", type=int, default=60, help="training steps of each fine-tune")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps only: the machinery, not the numbers")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    given.out.mkdir(parents=True, exist_ok=True)
    steps, tuning, count = (20, 5, 2) if given.quick else (given.steps, given.tuning, 16)
    train_all(given.out, steps, tuning, given.seed)
    found = measure(given.out, count)
    (given.out / "results.json").write_text(json.dumps(found, indent=1))
    (given.out / "results.md").write_text(table(found) + "\n")
    draw(found, given.out / "results.png")
    print("\nBits per byte on held-out files (lower is better):\n")
    print(table(found))


if __name__ == "__main__":
    main()
