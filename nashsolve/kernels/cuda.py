"""The CUDA source as one text, for NVRTC, which reads no files; and the shape of its launches."""

from __future__ import annotations

import re
from functools import cache

from . import SOURCES

FLAGS = ("-std=c++17", "--fmad=false", "-DNASH_NAMESPACE=nash_cuda")
"""Of every compiler of this source. Contraction is off: where a product is fused, the source says so."""

LARGEST = 64
"""Players that the kernels take: a problem lies in the shared memory of one block."""

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


def width(n: int) -> int:
    """Threads that share a problem of n players, one a player: the W of `nash_solve_W`."""
    return next(w for w in (8, 16, 32, 64) if n <= w)


def bytes_of_tile(n: int) -> int:
    """Shared memory of one problem: `doubles_of` in nash.cu."""
    return 8 * (2 * n * n + 18 * n + 11 + (64 if width(n) == 64 else 0))


def launch(n: int, count: int, shared_limit: int) -> tuple[int, int, int]:
    """Blocks, threads of a block and its bytes of shared memory, for `count` problems of n players.

    A block of 128 threads holds as many problems as it has room for in `shared_limit` bytes.
    """
    one, w = bytes_of_tile(n), width(n)
    tiles = max(1, min(128 // w, shared_limit // one)) if w < 64 else 1
    return -(-count // tiles), tiles * w, tiles * one
