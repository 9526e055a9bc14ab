"""What ``import nashsolve`` costs beyond numpy and scipy, in fresh interpreters.

    python -m benchmarks.import_time [--rounds 15] [--json FILE]

Rounds are interleaved; medians of wall seconds inside the interpreter, files in the system's cache. "Beyond"
is read two ways: after ``import numpy, scipy`` (strict: scipy loads its parts lazily, so those that nashsolve
needs count as nashsolve's), and after numpy and those parts too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

from benchmarks import measure

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "cvxpy", "cupy", "matplotlib", "typer", "pandas", "sklearn", "jax", "pydantic", "rich")
PROBE = """
import importlib, json, sys, time
for name in {before!r}:
    importlib.import_module(name)
start = time.perf_counter()
for name in {timed!r}:
    importlib.import_module(name)
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def probe(before: Sequence[str], timed: Sequence[str]) -> tuple[float, list[str]]:
    """Seconds to import ``timed`` after ``before`` in a fresh interpreter, and the modules then loaded."""
    code = PROBE.format(before=list(before), timed=list(timed))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    seconds, modules = json.loads(done.stdout)
    return float(seconds), list(modules)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="import_time", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    _, modules = probe(["numpy", "scipy"], ["nashsolve"])
    plain = set(probe([], ["numpy", "scipy"])[1])
    parts = [name for name in modules if name.split(".")[0] in ("numpy", "scipy") and name not in plain]
    public = [name for name in parts if not any(piece.startswith("_") for piece in name.split("."))]
    heavy = [name for name in HEAVY if name in modules]
    cases = {
        "numpy and scipy": ([], ["numpy", "scipy"]),
        "nashsolve after numpy and scipy": (["numpy", "scipy"], ["nashsolve"]),
        "nashsolve after numpy, scipy and the parts it uses": (["numpy", "scipy", *public], ["nashsolve"]),
        "nashsolve alone": ([], ["nashsolve"]),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (before, timed) in cases.items():
            times[name].append(probe(before, timed)[0])
    print(measure.banner())
    lines = [
        [name, f"{1e3 * statistics.median(found):.1f}", f"{1e3 * min(found):.1f}", f"{1e3 * max(found):.1f}"]
        for name, found in times.items()
    ]
    print(measure.table(f"Import, ms, {options.rounds} rounds", ["", "median", "least", "most"], lines))
    print(f"parts of numpy and scipy that nashsolve loads: {', '.join(public) or 'none'}")
    print(f"optional packages loaded: {', '.join(heavy) or 'none'}")
    if options.json:
        medians = {name: statistics.median(found) for name, found in times.items()}
        measure.write_json(options.json, {"seconds": medians, "parts": public, "heavy": heavy})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
