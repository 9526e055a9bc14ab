"""The compiled kernel: one C++ source for every instruction set and for CUDA, and what loads it.

``load()`` gives the binding or None, ``reason()`` why there is none. Everything works without it, only slower.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent
INTERFACE = 7
"""Raised with every change of what Python passes to the kernel, so that a stale build is not called."""

SIDE_BY_SIDE = 8
"""Players up to which problems lie side by side in vector registers: LARGEST_LANE in engine.cpp."""

MOST_ITERATIONS = 2**31 - 2
"""What the kernel counts up to; a larger limit is none."""


@cache
def _try() -> tuple[Any, str]:
    try:
        from . import _native  # type: ignore[attr-defined]
    except ImportError as error:
        missing = "_native" in str(error) and "cannot import name" in str(error)
        return None, "this installation was built without a C++ compiler" if missing else str(error)
    if getattr(_native, "interface", 0) != INTERFACE:
        return None, "the compiled kernel is older than this checkout; run  python hatch_build.py  to build it anew"
    return _native, ""


def load() -> Any:
    """The binding, or None where it is not built or does not load."""
    return _try()[0]


def reason() -> str:
    """Why `load` gives None; empty where it does not."""
    return _try()[1]


def threads() -> int:
    """Cores that a batch may use: those this process may run on, or fewer where OMP_NUM_THREADS says so."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wish)) if wish.isdigit() and int(wish) > 0 else cores
