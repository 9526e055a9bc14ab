"""Tiny files in the formats of the published data sets: what dry runs and tests read in place of downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .glue import GLUE
from .imagenet import SETS
from .wikitext103 import FILES

_TEXT = " = Rules = \n\n A bargain needs two players , and a point to fall back to . \n Nobody accepts less .\n"


def write_wikitext(folder: Path) -> Path:
    """wiki.train.tokens and its siblings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES.values():
        (folder / name).write_text(_TEXT * 12, encoding="utf-8")
    return folder


def write_glue(folder: Path, many: int = 6) -> Path:
    """One folder a task, with train.jsonl and the part that is measured."""
    for task in GLUE.values():
        found = [
            {
                **{name: f"{name} {k} of {task.subset}" for name in task.columns},
                "label": k / 2 if task.n_classes == 1 else k % task.n_classes,
            }
            for k in range(many)
        ]
        for part in ("train", task.validation):
            _jsonl(folder / task.subset / f"{part}.jsonl", found)
    return folder


def write_imagenet(folder: Path, classes: int = 2, many: int = 2, side: int = 40) -> Path:
    """Class folders of every part, with noise in them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, name in SETS.items():
        for c in range(classes):
            place = folder / name / f"n{c + (9 if part == 'O' else 0):08d}"
            place.mkdir(parents=True, exist_ok=True)
            for k in range(many):
                pixels = rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{k}.png")
    return folder


def write_questions(folder: Path, many: int = 6) -> Path:
    """SmolTalk, MMLU, ARC and GSM8K, one folder each."""
    choices = ["one", "two", "three", "four"]
    answers = ("Both.", "Both, or nobody agrees.", "Each more than without the other, or there is no agreement.")
    chats = [
        {"messages": [{"role": "user", "content": "Who gains?"}, {"role": "assistant", "content": answers[k % 3]}]}
        for k in range(many)
    ]
    _jsonl(folder / "SmolTalk" / "train.jsonl", chats)
    written: dict[str, dict[str, Any]] = {
        "MMLU/test": {"question": "How many players?", "choices": choices, "answer": 1},
        "ARC/test": {
            "question": "How many players?",
            "choices": {"text": choices, "label": list("ABCD")},
            "answerKey": "B",
        },
        **{
            f"GSM8K/{part}": {"question": "Ann has 1,000 and gets 200. How many?", "answer": "1,000 + 200.\n#### 1,200"}
            for part in ("train", "test")
        },
    }
    for place, row in written.items():
        _jsonl(folder / f"{place}.jsonl", [row] * many)
    return folder


def _jsonl(file: Path, found: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
