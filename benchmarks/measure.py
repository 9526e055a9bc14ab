"""Shared by the benchmark scripts: machine and versions, interleaved timing, aligned tables, JSON."""

from __future__ import annotations

import gc
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "nashsolve",
    "numpy",
    "scipy",
    "array-api-compat",
    "torch",
    "cvxpy",
    "clarabel",
    "ecos",
    "torchjd",
    "skfolio",
    "riskparityportfolio",
    "jax",
    "mpmath",
)


class OutOfTime(BaseException):
    """A call passed its limit. Not an `Exception`, so that no solver mistakes it for one of its own."""


def machine() -> dict[str, str]:
    """Processor, cores, system and Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not limited"),
    }


def versions() -> dict[str, str]:
    """Installed versions of everything that is compared or used."""
    return {package: version(package) for package in PACKAGES}


def version(package: str) -> str:
    """The installed version, that of a plain checkout, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        loaded = getattr(sys.modules.get(package), "__version__", None)
        return f"{loaded} (checkout)" if loaded else "not installed"


def limit_torch_threads() -> None:
    """Keep torch, where loaded, to one thread; the environment variables do so for the BLAS pools."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def once(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds a call takes, over ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    first: Mapping[str, float],
    *,
    rounds: int,
    shortest: float = 5e-3,
    slow: float = 0.6,
) -> dict[str, float]:
    """Median seconds of each call over ``rounds`` rounds in which each is timed once, in rotating order.

    ``first`` holds the seconds of a call already made; a call under ``shortest`` is repeated within its turn
    to reach it, after one that is not timed, and one above ``slow`` is not made again: its first time stands.
    """
    names = [name for name in calls if first[name] <= slow]
    times: dict[str, list[float]] = {name: [] for name in names}
    repeats = {name: max(1, min(1000, int(shortest / max(first[name], 1e-9)))) for name in names}
    gc_was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds if names else 0):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                if repeats[name] > 1:
                    calls[name]()  # the turn before has emptied the caches
                times[name].append(once(calls[name], repeats[name]))
    finally:
        if gc_was_on:
            gc.enable()
    return {name: statistics.median(times[name]) if name in times else first[name] for name in calls}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupt the body with `OutOfTime` after ``seconds``, at its next Python step."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def figure(value: float, digits: int = 3) -> str:
    """A number of few digits; a dash for nothing."""
    if value != value:
        return "-"
    return f"{value:.{digits}g}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned plain text: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(padded).rstrip()

    return "\n".join([title, line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows), ""])


def banner() -> str:
    """Machine and versions in two lines."""
    parts = [", ".join(f"{key} {value}" for key, value in group.items()) for group in (machine(), versions())]
    return "\n".join([*parts, ""])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """``content`` with the machine and the versions, as JSON; NaN and infinity become null."""
    whole = {"machine": machine(), "versions": versions(), **content}
    path.write_text(json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
