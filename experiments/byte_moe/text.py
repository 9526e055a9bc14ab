"""Bytes that come with every Python: the standard library's sources, and three other kinds of text beside them."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
HEADERS = Path(sysconfig.get_paths()["include"])
DOMAINS = ("prose", "tests", "headers")
HELD_OUT = 10
"""One file in ten, chosen by the hash of its name, is never trained on."""


@cache
def read(kind: str, held_out: bool) -> np.ndarray:
    """All bytes of a kind of text: library, prose (docstrings), tests (unit tests) or headers (C)."""
    parts = [text for name, text in _files(kind) if _is_held_out(name) == held_out]
    if not parts:
        raise SystemExit(f"this Python has no {kind} under {LIBRARY} or {HEADERS}")
    return np.frombuffer(b"\n\n".join(parts), dtype=np.uint8)


def batches(data: np.ndarray, count: int, batch: int, length: int, seed: int) -> Iterator[np.ndarray]:
    """`count` random batches (batch, length + 1) of consecutive bytes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        starts = rng.integers(0, len(data) - length - 1, size=batch)
        yield np.stack([data[s : s + length + 1] for s in starts]).astype(np.int64)


def _files(kind: str) -> Iterator[tuple[str, bytes]]:
    if kind == "headers":
        for path in sorted(HEADERS.rglob("*.h")):
            yield str(path.relative_to(HEADERS)), path.read_bytes()
        return
    for path in sorted(LIBRARY.rglob("*.py")):
        name = str(path.relative_to(LIBRARY))
        inside = set(Path(name).parts)
        if "site-packages" in inside or (inside & {"test", "tests", "idle_test"} and kind != "tests"):
            continue
        if kind == "tests" and not inside & {"test", "tests"}:
            continue
        text = path.read_bytes()
        if kind == "prose":
            text = _docstrings(text)
        if text:
            yield name, text


def _docstrings(source: bytes) -> bytes:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return b""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n\n".join(text for text in found if text and len(text) > 40).encode()


def _is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0
