"""The CUDA source as one text, for NVRTC, which reads no files; and the shape of its launches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from . import SOURCES

FLAGS = ("-std=c++17", "--fmad=false", "-DNASH_NAMESPACE=nash_cuda")
"""Of every compiler of this source. Contraction is off: where a product is fused, the source says so."""

LARGEST = 1024
"""Players that the kernels take."""

BLOCK = 256
"""Threads of the block that takes a problem too large for shared memory."""

_PANEL = 16
"""Columns of the panel that such a block keeps there at most: `MOST` in block.hpp."""

_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)


@cache
def source() -> str:
    """nash.cu with every header of its own in the place of the first line that asks for it."""
    seen: set[str] = set()

    def read(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (SOURCES / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: read(found[1]), text)

    return read("nash.cu")


@dataclass(frozen=True)
class Variant:
    """What the source is compiled for: a width W of `nash_solve_W`, a disagreement point, an iteration in floats."""

    width: int
    placed: bool = False
    rough: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the compiler, after FLAGS."""
        return f"-DNASH_WIDTH={self.width}", f"-DNASH_PLACED={self.placed:d}", f"-DNASH_ROUGH={self.rough:d}"

    @property
    def kernel(self) -> str:
        """Name of the kernel that solves."""
        return f"nash_solve_{self.width}"


def variant(n: int, shared_limit: int, placed: bool = False, rough: bool = False) -> Variant:
    """For n players: one thread a player where the problem fits in `shared_limit` bytes, else a block and its room."""
    width = next((w for w in (8, 16, 32, 64) if n <= w and bytes_of_tile(n, w, placed) <= shared_limit), BLOCK)
    return Variant(width, placed, rough)


def doubles_of(n: int, placed: bool) -> int:
    """Room of one problem: `doubles_of` in nash.cu."""
    return (3 if placed else 2) * n * n + ((18 + 2 if placed else 8) + 7 + 3) * n + 11


def bytes_of_tile(n: int, width: int, placed: bool = False) -> int:
    """Shared memory of one problem in a tile."""
    return 8 * (doubles_of(n, placed) + (width if width > 32 else 0))


@dataclass(frozen=True)
class Shape:
    """One launch: blocks, threads of each, bytes of their shared memory; and doubles of the panel of a block."""

    blocks: int
    threads: int
    shared: int
    held: int = 0


def launch(kind: Variant, n: int, count: int, shared_limit: int, processors: int) -> Shape:
    """For `count` problems of n players on a device of so many processors.

    A block of 128 threads holds as many tiles as it has room for in `shared_limit` bytes. One block a problem keeps
    the panel that fits, and two of them a processor take the problems in turn, so that their room stays small.
    """
    if kind.width == BLOCK:
        held = n * max(1, min(_PANEL, (shared_limit // 8 - BLOCK) // n))
        return Shape(min(count, 2 * processors), BLOCK, 8 * (BLOCK + held), held)
    one = bytes_of_tile(n, kind.width, kind.placed)
    tiles = max(1, min(128 // kind.width, shared_limit // one)) if kind.width < 64 else 1
    return Shape(-(-count // tiles), tiles * kind.width, tiles * one)
