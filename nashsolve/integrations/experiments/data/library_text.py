"""The sources of Python's standard library: text on every machine, in files that split into train, validation, test."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from sysconfig import get_paths
from typing import Literal

import torch

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
VOCAB = 256


@cache
def library_files(part: Part) -> tuple[tuple[str, str], ...]:
    """Name and text of every source file of a part, tests of the library left out; split 90/5/5 by names.

    Returns
    -------
    tuple of (name relative to the library, text), in order of names
    """
    root = Path(get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith("site-packages/") or {"test", "tests", "idle_test"} & set(name.split("/")):
            continue
        if _part(name) == part:
            found.append((name, path.read_text(encoding="utf-8", errors="replace")))
    return tuple(found)


@cache
def library_bytes(part: Part) -> torch.Tensor:
    """All bytes of a part, uint8."""
    return torch.frombuffer(bytearray("".join(text for _, text in library_files(part)).encode()), dtype=torch.uint8)


def draw(data: torch.Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows (batch, length) int64, and the bytes that follow."""
    starts = torch.randint(0, len(data) - length - 1, (batch, 1), generator=generator)
    windows = data[starts + torch.arange(length + 1)].long()
    return windows[:, :-1], windows[:, 1:]


def spread(data: torch.Tensor, windows: int, length: int) -> torch.Tensor:
    """Windows (windows, length + 1) int64 at equal distances: the same for every model that is measured."""
    starts = torch.linspace(0, len(data) - length - 2, windows).long()[:, None]
    return data[starts + torch.arange(length + 1)].long()


def _part(name: str) -> Part:
    share = zlib.crc32(name.encode()) % 20
    return "test" if share == 0 else "validation" if share == 1 else "train"
