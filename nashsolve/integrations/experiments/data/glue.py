"""The GLUE tasks of table 2: columns, classes, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nashsolve.core.errors import InvalidProblem

from .sources import Source, column, rows


@dataclass(frozen=True)
class GlueTask:
    """One task.

    subset : its name on the hub; columns : of one or two sentences; n_classes : 1 for a regression; metric : its name
    validation : part that is measured
    """

    subset: str
    columns: Sequence[str]
    n_classes: int
    metric: str
    validation: str = "validation"


GLUE = {
    "SST-2": GlueTask("sst2", ("sentence",), 2, "accuracy"),
    "MRPC": GlueTask("mrpc", ("sentence1", "sentence2"), 2, "f1"),
    "CoLA": GlueTask("cola", ("sentence",), 2, "matthews"),
    "STSB": GlueTask("stsb", ("sentence1", "sentence2"), 1, "pearson"),
    "RTE": GlueTask("rte", ("sentence1", "sentence2"), 2, "accuracy"),
    "QNLI": GlueTask("qnli", ("question", "sentence"), 2, "accuracy"),
    "MNLI": GlueTask("mnli", ("premise", "hypothesis"), 3, "accuracy", "validation_matched"),
}


def glue_examples(source: Source, task: str, part: str) -> tuple[list[str], list[float]]:
    """Texts (two sentences joined as T5 reads them) and labels.

    Raises
    ------
    InvalidProblem
        For an unknown task or a missing column.
    """
    if task not in GLUE:
        raise InvalidProblem(f"task is {task!r}; known are {', '.join(GLUE)}")
    found = GLUE[task]
    texts, labels = [], []
    where = f"GLUE {task}"
    chosen = source.changed(hub=source.hub or "nyu-mll/glue", subset=found.subset)
    for row in rows(chosen, found.validation if part == "validation" else part):
        parts = [f"{name}: {column(row, name, where)}" for name in found.columns]
        texts.append(f"{found.subset} " + " ".join(parts))
        labels.append(float(column(row, "label", where)))
    return texts, labels


def glue_score(metric: str, predicted: Any, labels: Any) -> float:
    """In per cent: accuracy, F1 of class 1, Matthews' correlation, Pearson's correlation."""
    one, other = np.asarray(predicted, dtype=float), np.asarray(labels, dtype=float)
    if metric == "pearson":
        return 100 * float(stats.pearsonr(one, other).statistic)
    if metric == "accuracy":
        return 100 * float((one == other).mean())
    tp, fp = float(((one == 1) & (other == 1)).sum()), float(((one == 1) & (other == 0)).sum())
    fn, tn = float(((one == 0) & (other == 1)).sum()), float(((one == 0) & (other == 0)).sum())
    if metric == "f1":
        return 100 * 2 * tp / max(2 * tp + fp + fn, 1.0)
    if metric == "matthews":
        return 100 * (tp * tn - fp * fn) / max(((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5, 1.0)
    raise InvalidProblem(f"metric is {metric!r}; known are accuracy, f1, matthews, pearson")
