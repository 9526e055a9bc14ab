"""The memory bound: sizes of blocks that keep it, what the process has used, and the stop when it is passed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from .errors import CheckpointRefused, MemoryExceeded

DEFAULT = 2 * 2**30
CHUNK = 2**18
"""Elements of an output tensor computed at once."""

_BLOCK_NUMBERS = 2**17
_READ_BYTES = 8 * 2**20
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_MARGIN = 96 * 2**20
"""Python objects, writer's queue and allocator beyond the blocks below."""


def parse_size(text: str | int) -> int:
    """Bytes from 2GiB, 500 MB, 1048576.

    Raises
    ------
    CheckpointRefused
    """
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = found[2].lower() if found else ""
    if found is None or unit not in _UNITS:
        raise CheckpointRefused(f"{text!r} is not a size; write 2GiB, 500MB or a number of bytes")
    return int(float(found[1]) * _UNITS[unit])


def block_columns(rows: int) -> int:
    """Columns summed at once: a function of the rows alone, so that sums never depend on the memory bound."""
    columns = 2**15
    while columns > 256 and columns * rows > _BLOCK_NUMBERS:
        columns //= 2
    return columns


def read_blocks(rows: int, itemsize: int) -> int:
    """Blocks read at once: long reads, within a fixed share of memory."""
    return max(1, min(64, _READ_BYTES // max(1, rows * block_columns(rows) * itemsize)))


def workers() -> int:
    """Threads that form products: the processors given to this process, at most four."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, given))


def gram_bytes(rows: int, itemsize: int) -> int:
    """Peak of one Gram pass beyond what the process has."""
    columns = block_columns(rows)
    one = rows * columns * (read_blocks(rows, itemsize) * (itemsize + 4) + 32)
    return workers() * one + 20 * 8 * rows * rows


def combine_bytes() -> int:
    """Peak of computing output chunks."""
    return CHUNK * 64


def alignment_bytes(rows: int, columns: int, matrices: int) -> int:
    """Peak of matching the neurons of two experts (rows neurons, columns hidden)."""
    return rows * columns * matrices * 12 + 28 * rows * rows


def margin() -> int:
    """What every plan adds."""
    return _MARGIN


def resident() -> int:
    """Bytes of memory that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return peak()
    import resource

    return pages * resource.getpagesize()


def peak() -> int:
    """The most memory that this process has had.

    Read from the kernel's own record where there is one: getrusage also counts the parent before an exec.
    """
    import resource

    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def check(bound: int, before: int) -> None:
    """Stop when the process has grown beyond the bound.

    Parameters
    ----------
    bound : bytes allowed
    before : the peak when the run began; a process that was larger then is judged by what it has now

    Raises
    ------
    MemoryExceeded
    """
    used = peak() if before < bound else resident()
    if used > bound:
        raise MemoryExceeded(
            f"the process has used {used / 2**20:.0f} MiB, more than the {bound / 2**20:.0f} MiB of --max-memory; what "
            "is finished can be resumed with a larger bound"
        )
