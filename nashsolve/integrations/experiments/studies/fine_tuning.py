"""A dense model upcycled to experts and fine-tuned on four tasks: the published GLUE comparison, in small."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator

from ..book import Book
from ..judging import better, flat
from ..statistics import by_system
from ..study import Claim, Records
from ..systems import check_systems, few
from ..tables import Metric, Table, comparison
from ._upcycled import Upcycling, dense_backbone, fine_tune, pretrained, small, tasks_of, upcycled, wide

DIVISIBLE = True
PAPER = {"kind": "SST-2", "renamed": "MRPC", "branches": "STSB", "package": "MNLI"}
"""The column of table 2 beside each task: the same kind of task, not the same task."""


class Settings(Upcycling):
    """As Upcycling, with the systems.

    Attributes
    ----------
    systems : each is fine-tuned on every task with every seed
    """

    systems: list[str] = Field(min_length=1)

    @field_validator("systems")
    @classmethod
    def _exist(cls, systems: list[str]) -> list[str]:
        check_systems(systems)
        return systems


def run(settings: Settings, book: Book) -> None:
    """Fine-tune everything; then once without jitter, where no agreement exists at the start."""
    given, tasks = pretrained(settings, book), tasks_of(settings)
    keys = [f"{s}/{task}/{seed}" for seed in range(settings.seeds) for task in settings.tasks for s in settings.systems]
    for key in book.todo(keys):
        system, task, seed = key.split("/")
        model = upcycled(settings, system, given, int(seed))
        told = fine_tune(settings, book, key, model, tasks[task], int(seed))
        book.record(key, system=system, task=task, seed=int(seed), **told)
    for key in book.todo(["copies"]):
        model = upcycled(settings.changed(jitter=0.0), "namex_full", given, 0)
        told = fine_tune(settings, book, key, model, tasks[settings.tasks[0]], 0)
        links = [point["without_agreement"] for point in book.curves()[key]]
        book.record(key, **told, links_without_agreement=links)


def reduced(settings: Settings) -> Settings:
    """Two steps of two seeds of two systems."""
    return settings.changed(**small(settings), systems=few(settings.systems))


def plan(settings: Settings) -> list[str]:
    """Sizes of the dense and the upcycled model."""
    with torch.device("meta"):
        dense = dense_backbone(settings)
    count = sum(p.numel() for p in dense.parameters())
    return [
        f"pretraining: {count / 1e6:.2f} M parameters, {settings.pretraining.steps} steps on bytes",
        f"{len(settings.systems) * len(settings.tasks) * settings.seeds} fine-tunings of {settings.optimisation.steps} "
        f"steps of {settings.batch} examples",
    ]


def tables(records: Records) -> list[Table]:
    """Scores of every task."""
    rows = wide(records, "system")
    names = [task for task in PAPER if any(task in row for row in rows)]
    metrics = [Metric(task, f"{task}, %", "higher", 2, ("table_2", PAPER[task])) for task in names]
    metrics.append(Metric("mean", "mean of the tasks, %", "higher", 2))
    note = "Tasks from the standard library; the paper's column is the GLUE task of the same kind."
    return [comparison(rows, [metric], "dense", note if not k else "") for k, metric in enumerate(metrics)]


def claims(records: Records) -> list[Claim]:
    """Orderings of table 2 in the mean over the tasks, and the start from copies."""
    table = by_system(wide(records, "system"), "mean")
    unit = "mean score, %"
    merged = [s for s in table if s not in ("dense", "smoe_top1_published", "smoe_top2")]
    judged = [
        better(table, "namex_full", "dense", unit, "higher", "table 2: better on all seven tasks"),
        better(table, "namex_full", "smoe_top2", unit, "higher", "table 2: better on all seven tasks"),
        better(table, "namex_full", "ep_camex", unit, "higher", "table 2: better on all seven tasks"),
        better(table, "namex_full", "namex", unit, "higher", "table 2: better on all seven tasks"),
        better(table, "namex_full_mom", "namex_full", unit, "higher", "table 2: better on all seven tasks"),
        flat(table, merged, "ep_camex", unit, "The merging systems differ", "table 2 ranks them on every task", False),
    ]
    found = [claim for claim in judged if claim is not None]
    copies: dict[str, Any] | None = next((dict(r) for r in records if r["key"] == "copies"), None)
    if copies is not None:
        links = copies["links_without_agreement"]
        found.append(
            Claim(
                "Experts copied from the dense feed-forward can bargain over the copy",
                "section 4: base expert and experts start as the same feed-forward",
                f"layers without an agreement over the steps: {', '.join(map(str, links))}",
                "not reproduced" if links[0] else "reproduced",
                "all domain vectors are zero; the chain holds its base expert until gradients tell the copies apart",
            )
        )
    return found
