"""Four tasks made from the standard library's sources, shaped like GLUE: three classifications and a regression."""

from __future__ import annotations

import ast
import io
import keyword
import random
import re
import tokenize
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from .library_text import Part, library_files

TASKS = ("package", "kind", "renamed", "branches")
KINDS = ("code", "comment", "docstring")
PACKAGES = 10
EVERY = 3
"""Files between two that are parsed, which takes most of the time."""
_BRANCHES = (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.BoolOp, ast.IfExp, ast.comprehension)


@dataclass(frozen=True)
class Task:
    """Bytes and what they mean.

    Attributes
    ----------
    name : of `TASKS`
    train, test : (bytes (count, length) int64, labels (count,) int64 or float32), from different files; of pairs, bytes
        are (count, 2, length)
    n_classes : 1 for a regression, which is measured by Spearman's correlation
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    n_classes: int


@cache
def load_task(name: str, length: int, many_train: int, many_test: int) -> Task:
    """A task by its name.

    "package" asks which of ten packages a chunk is from; "kind" whether it is code, a comment or a docstring; "renamed"
    whether two functions are one with other names, of which each pair holds the beginnings; "branches" how many
    branches the function has that begins so.

    Parameters
    ----------
    name : of `TASKS`
    length : bytes of an example; shorter ones are filled with zeros
    many_train, many_test : examples, drawn evenly over the classes

    Raises
    ------
    InvalidProblem
    """
    if name not in TASKS:
        raise InvalidProblem(f"task is {name!r}; known are {', '.join(TASKS)}")
    makers = {"package": _package, "kind": _kind, "renamed": _renamed, "branches": _branches}
    parts = {}
    for part, many in (("train", many_train), ("test", many_test)):
        files = library_files("train") if part == "train" else library_files("validation") + library_files("test")
        examples = list(makers[name](files, length))
        parts[part] = _tensors(examples, length, many, name == "branches")
    classes = 1 if name == "branches" else int(parts["train"][1].max()) + 1
    return Task(name, parts["train"], parts["test"], classes)


Files = tuple[tuple[str, str], ...]
Text = bytes | tuple[bytes, bytes]
Example = tuple[Text, float]


def _tensors(examples: list[Example], length: int, many: int, regression: bool) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(examples))
    if not regression:
        # Every class equally often, so that accuracy means the same in every part.
        labels = np.array([label for _, label in examples])[order]
        rank = np.zeros(len(order), dtype=int)
        for label in np.unique(labels):
            rank[labels == label] = np.arange((labels == label).sum())
        smallest = Counter(labels.tolist()).most_common()[-1][1]
        order = order[rank < min(smallest, -(-many // len(np.unique(labels))))]
    chosen = [examples[k] for k in order[:many]]
    rows = torch.stack([_row(text, length) for text, _ in chosen])
    kind = torch.float32 if regression else torch.int64
    return rows, torch.tensor([label for _, label in chosen], dtype=kind)


def _row(text: Text, length: int) -> Tensor:
    if isinstance(text, tuple):
        return torch.stack([_row(part, length) for part in text])
    return torch.tensor(list(text[:length].ljust(length, b"\0")), dtype=torch.int64)


def _chunks(text: bytes, length: int) -> Iterator[bytes]:
    for start in range(0, len(text) - length + 1, length):
        yield text[start : start + length]


@cache
def _largest_packages() -> tuple[str, ...]:
    sizes: Counter[str] = Counter()
    parts: list[Part] = ["train", "validation", "test"]
    inside = [{name.split("/")[0] for name, _ in library_files(p) if "/" in name} for p in parts]
    for name, text in library_files("train"):
        package = name.split("/")[0]
        if "/" in name and package in inside[0] and package in inside[1] | inside[2]:
            sizes[package] += len(text)
    return tuple(sorted(package for package, _ in sizes.most_common(PACKAGES)))


def _package(files: Files, length: int) -> Iterator[Example]:
    packages = _largest_packages()
    for name, text in files:
        package = name.split("/")[0]
        if "/" in name and package in packages:
            for chunk in _chunks(text.encode(), length):
                yield chunk, packages.index(package)


def _kind(files: Files, length: int) -> Iterator[Example]:
    for _, text in files[::EVERY]:
        for label, kind in enumerate(_kinds(text)):
            # The marks that would give the answer away go.
            for chunk in _chunks(re.sub(rb"[#\"']", b"", kind.encode()), length):
                yield chunk, label


def _kinds(text: str) -> tuple[str, str, str]:
    """Code, comments and docstrings of a file."""
    comments, docstrings, rest = [], [], []
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return "", "", ""
    before = tokenize.NEWLINE
    lines = set()
    for token in tokens:
        if token.type == tokenize.COMMENT:
            comments.append(token.string.lstrip("# "))
            lines.add(token.start[0])
        elif token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.NL):
            docstrings.append(token.string)
            lines.update(range(token.start[0], token.end[0] + 1))
        before = token.type
    rest = [line for number, line in enumerate(text.splitlines(), 1) if number not in lines and line.strip()]
    return "\n".join(rest), " ".join(comments), " ".join(docstrings)


@cache
def _functions(files: Files) -> tuple[tuple[str, int], ...]:
    """Source and number of branches of functions of a moderate length."""
    found = []
    for _, text in files[::EVERY]:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        lines = text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and 3 <= node.end_lineno - node.lineno <= 40:
                indent = len(lines[node.lineno - 1]) - len(lines[node.lineno - 1].lstrip())
                source = "\n".join(line[indent:] for line in lines[node.lineno - 1 : node.end_lineno])
                found.append((source, sum(isinstance(inner, _BRANCHES) for inner in ast.walk(node))))
    return tuple(found)


def _renamed(files: Files, length: int) -> Iterator[Example]:
    functions = _functions(files)
    names = _names(files)
    for k, (source, _) in enumerate(functions):
        label = k % 2
        other = source if label else functions[(k + 7) % len(functions)][0]
        yield (source.encode()[:length], _rename(other, names).encode()[:length]), label


_NAME = re.compile(r"\b[A-Za-z_]\w*\b", re.ASCII)


@cache
def _names(files: Files) -> dict[int, tuple[str, ...]]:
    """Length -> every name in the functions that has it, in order."""
    found: dict[int, set[str]] = {}
    for source, _ in _functions(files):
        for word in _NAME.findall(source):
            found.setdefault(len(word), set()).add(word)
    return {length: tuple(sorted(words - _KEEP)) or tuple(words) for length, words in found.items()}


def _rename(source: str, names: dict[int, tuple[str, ...]]) -> str:
    """Every name of the function's own replaced by another of the same length, drawn by the text itself.

    Names as long and as usual as the old ones leave the layout of the text, and no style that gives the answer away.
    """
    draw = random.Random(zlib.crc32(source.encode()))
    chosen: dict[str, str] = {}

    def new(match: re.Match[str]) -> str:
        word = match.group()
        if word in _KEEP:
            return word
        return chosen.setdefault(word, draw.choice(names[len(word)]))

    return _NAME.sub(new, source)


_KEEP = frozenset((*keyword.kwlist, "self", "len", "range", "isinstance", "str", "int", "list", "dict", "set"))


def _branches(files: Files, length: int) -> Iterator[Example]:
    for source, branches in _functions(files):
        if len(source) > length:
            yield source.encode(), float(np.log1p(branches))
