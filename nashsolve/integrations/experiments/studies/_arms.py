"""Upcycled fine-tunings that differ in the settings of the chain only: one arm a setting, all else equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..book import Book
from ._upcycled import Upcycling, fine_tune, pretrained, tasks_of, upcycled

Arms = Mapping[str, tuple[str, dict[str, Any]]]
"""Name of the arm -> (system, settings of its chain)."""


def run_arms(settings: Upcycling, book: Book, arms: Arms) -> None:
    """Fine-tune every arm on every task with every seed; each record also holds the whole loss curve."""
    given, tasks = pretrained(settings, book), tasks_of(settings)
    keys = [f"{arm}/{task}/{seed}" for seed in range(settings.seeds) for task in settings.tasks for arm in arms]
    for key in book.todo(keys):
        arm, task, seed = key.split("/")
        system, chain = arms[arm]
        model = upcycled(settings, system, given, int(seed), chain=chain)
        told = fine_tune(settings, book, key, model, tasks[task], int(seed))
        losses = [point["loss"] for point in book.curves()[key]]
        book.record(key, arm=arm, task=task, seed=int(seed), losses=losses, **told)
