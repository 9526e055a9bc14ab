"""Chats to tune on (SmolTalk) and questions to be asked (MMLU, ARC, GSM8K), in the formats of the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nashsolve.core.errors import InvalidProblem

from .sources import Source, column, rows

HUB = {
    "SmolTalk": Source(hub="HuggingFaceTB/smoltalk", subset="all"),
    "MMLU": Source(hub="cais/mmlu", subset="all"),
    "ARC": Source(hub="allenai/ai2_arc", subset="ARC-Challenge"),
    "GSM8K": Source(hub="openai/gsm8k", subset="main"),
}
LETTERS = "ABCDE"


@dataclass(frozen=True)
class Choice:
    """A question with choices; `answer` is the number of the right one."""

    question: str
    choices: Sequence[str]
    answer: int

    def prompt(self) -> str:
        """As it is asked, up to the letter."""
        listed = "\n".join(f"{LETTERS[k]}. {choice}" for k, choice in enumerate(self.choices))
        return f"{self.question.strip()}\n{listed}\nAnswer:"


@dataclass(frozen=True)
class Sum:
    """A word problem whose answer is a number, as a text without commas."""

    question: str
    answer: str


def source_of(name: str, folder: str | None, limit: int | None = None) -> Source:
    """Where a data set comes from: a folder, or the hub."""
    if name not in HUB:
        raise InvalidProblem(f"data set is {name!r}; known are {', '.join(HUB)}")
    return HUB[name].changed(folder=folder, limit=limit)


def chats(source: Source, part: str = "train") -> list[list[dict[str, str]]]:
    """SmolTalk: lists of messages with role and content."""
    return [list(column(row, "messages", "SmolTalk")) for row in rows(source, part)]


def mmlu(source: Source, part: str = "test") -> list[Choice]:
    """MMLU's questions."""
    return [_choice(row, "MMLU", column(row, "choices", "MMLU")) for row in rows(source, part)]


def arc(source: Source, part: str = "test") -> list[Choice]:
    """ARC's questions; its answers are letters or digits among the labels of the choices."""
    found = []
    for row in rows(source, part):
        given = column(row, "choices", "ARC")
        labels, key = list(given["label"]), column(row, "answerKey", "ARC")
        if key not in labels:
            raise InvalidProblem(f"ARC: the answer {key!r} is none of {', '.join(labels)}")
        found.append(Choice(column(row, "question", "ARC"), list(given["text"]), labels.index(key)))
    return found


def gsm8k(source: Source, part: str = "test") -> list[Sum]:
    """GSM8K's problems; the answer stands behind four number signs."""
    found = []
    for row in rows(source, part):
        _, mark, answer = str(column(row, "answer", "GSM8K")).rpartition("####")
        if not mark:
            raise InvalidProblem("GSM8K: an answer has no line that begins with ####")
        found.append(Sum(column(row, "question", "GSM8K"), answer.strip().replace(",", "")))
    return found


def last_number(text: str) -> str | None:
    """The last number of an answer, as GSM8K is judged."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def _choice(row: dict[str, Any], where: str, choices: Sequence[str]) -> Choice:
    return Choice(column(row, "question", where), list(choices), int(column(row, "answer", where)))
