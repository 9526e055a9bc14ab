"""MMLU, ARC and GSM8K by lm-evaluation-harness, from the hub or from the files that the package's own reading takes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nashsolve.core.errors import InvalidProblem, MissingExtra

TASKS = {
    "MMLU": ("mmlu", "acc,none"),
    "ARC": ("arc_challenge", "acc_norm,none"),
    "GSM8K": ("gsm8k", "exact_match,strict-match"),
}
"""Data set -> the harness's task, and the number of it that is reported."""
_WORDED = {"MMLU": "mmlu_abstract_algebra", "ARC": "arc_challenge", "GSM8K": "gsm8k"}
"""Data set -> the harness's task whose words local files are asked in; its MMLU is a group with a task a subject."""
_CHANGES: dict[str, dict[str, Any]] = {
    "MMLU": {"description": "The following are multiple choice questions (with answers).\n\n", "task_alias": "mmlu"},
    "ARC": {},
    "GSM8K": {"training_split": "train", "fewshot_split": "train"},
}


def harness_scores(model: Any, tokenizer: str, folder: str | None, limit: int | None, batch: int) -> dict[str, float]:
    """Scores of a model in per cent.

    Parameters
    ----------
    model : a causal language model of transformers, on its device
    tokenizer : name on the hub, or folder
    folder : one folder a data set, with test.jsonl, and train.jsonl where the task shows examples; None asks the hub
    limit : questions of each task; None for all
    batch : requests at once

    Raises
    ------
    MissingExtra
        Without lm-evaluation-harness.
    InvalidProblem
        Where a file is missing.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtra("lm-eval", "lm-eval") from None
    known = TaskManager()
    with TemporaryDirectory() as written:
        tasks = [task for task, _ in TASKS.values()]
        if folder is not None:
            files = {name: known.task_index[task].yaml_path for name, task in _WORDED.items()}
            tasks = [_from_files(name, Path(folder), files[name], Path(written)) for name in TASKS]
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        options = {"limit": limit, "bootstrap_iters": 0, "log_samples": False}
        found = simple_evaluate(wrapped, tasks=tasks, task_manager=known, **options)["results"]
    return {name: 100 * float(found[task][metric]) for name, (task, metric) in TASKS.items()}


def _from_files(name: str, folder: Path, worded: Path, written: Path) -> str:
    """A file with the harness's task whose data set are local files."""
    changes = {"training_split": None, "validation_split": None, "fewshot_split": None, **_CHANGES[name]}
    parts = ["test", *({changes["fewshot_split"]} - {None})]
    files = {part: folder / name / f"{part}.jsonl" for part in parts}
    missing = next((file for file in files.values() if not file.is_file()), None)
    if missing is not None:
        raise InvalidProblem(f"{missing} does not exist; lm-evaluation-harness reads {name} from it")
    task = {
        "include": str(worded),
        "task": TASKS[name][0],
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {part: str(file.resolve()) for part, file in files.items()}},
        **changes,
    }
    path = written / f"{name}.yaml"
    path.write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    return str(path)
