"""The compiled kernel under AddressSanitizer and UndefinedBehaviorSanitizer; about three minutes on two cores.

Builds the binding anew into a temporary folder, puts it in the place of the installed one and drives it with problems
of every size, batches of every length and bad input; then the CUDA kernels, run on the host by the tests. Any finding
aborts the process that meets it, and this program with it. `--self-test` shows that by a binding with a fault.

    python tools/sanitize.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1")
SETS = ("base", "v3", "v4", "device")


def runtime(compiler: str) -> str:
    """The sanitizer's library, which must be loaded before Python itself."""
    command = [*compiler.split(), "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        sys.exit(f"{compiler} has no libasan.so: install its sanitizer runtime (libasan, or gcc's own package)")
    return found


def environment(compiler: str, library: Path) -> dict[str, str]:
    """Leaks are Python's own business; memory comes from malloc, so that every overrun is seen."""
    return dict(os.environ) | {
        "LD_PRELOAD": runtime(compiler),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(ROOT),
        "NASH_SANITIZED": str(library),
        "NASH_HOST_FLAGS": " ".join(FLAGS),
        "OMP_NUM_THREADS": "2",
    }


def hatch_build() -> object:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(path: str) -> object:
    """The sanitized binding in the place of the installed one."""
    import nashsolve.kernels as room

    spec = importlib.util.spec_from_file_location("nashsolve.kernels._native", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["nashsolve.kernels._native"] = room._native = module
    assert room.load() is module, room.reason()
    return module


def spoil(batch: object, rng: object) -> None:
    """Some items become no problems, in every way."""
    import numpy as np

    count, n = batch.shape[:2]
    for item in range(count):
        kind = rng.integers(12)
        values = {0: np.nan, 1: np.inf, 2: -1.0, 3: 0.0, 4: 1e308, 5: 5e-324}
        if kind in values:
            batch[item, rng.integers(n), rng.integers(n)] = values[kind]
        elif kind == 6:
            batch[item] = 0.0
        elif kind == 7:
            batch[item] *= -1.0


def exercise(native: object, name: str) -> None:
    """Every entry of the binding for n = 1..64 and some beyond, with and without what is optional."""
    import numpy as np

    import nashsolve as ns

    native.instruction_set(name)
    rng = np.random.default_rng(0)
    for n in (*range(1, 65), 100, 131):
        count = int(rng.integers(1, 20)) if n <= 64 else 2
        rows = rng.standard_normal((count, n, max(1, n // 2 if n % 3 == 0 else n + 2)))
        batch = rows @ rows.swapaxes(-1, -2)
        weights, radius = rng.uniform(0.1, 5, (count, n)), rng.uniform(0.5, 2, count)
        first = ns.solve(ns.BargainingProblem(gram=batch, weights=weights), solver="compiled", on_failure="return")
        ns.solve(ns.BargainingProblem(gram=batch, weights=weights[0], radius=radius), start=first, on_failure="return")
        problem = ns.BargainingProblem(gram=batch, disagreement=-0.01 * weights, radius=radius)
        ns.solve(problem, on_failure="return")
        ns.solve(batch.copy(), solver="compiled", max_iter=n % 4, threads=2, on_failure="return")
        for rough in (batch, problem):
            ns.solve(rough, solver="compiled", precision="float32", on_failure="return")
        spoil(batch, rng)
        ns.solve(batch, on_failure="return")
        for item in (batch[0], rows[0] @ rows[0].T):
            for call in (ns.nash_weights, ns.solve):
                with contextlib.suppress(ns.NashSolveError):
                    call(item)
    exercise_families(rng)


def exercise_families(rng: object) -> None:
    """Tables of outcomes and balls with linear constraints, short and long, with agreement and without."""
    import numpy as np

    import nashsolve as ns

    for n in (*range(1, 20), 33, 64):
        for many in (1, 3, 8 * n + 1, 15 * n, 15 * n + 1, 40 * n + 5, 700):
            payoffs = rng.standard_normal((many, n)) + rng.choice([-1.0, 0.0, 0.5])
            payoffs = np.round(payoffs) if many % 3 == 0 else payoffs
            for limit in (2, 80):
                with contextlib.suppress(ns.InvalidProblem):
                    ns.solve(ns.OutcomeBargainingProblem(payoffs), max_iter=limit, on_failure="return")
        domain = ns.ball(n + 1) & ns.polytope(rng.standard_normal((n, n + 1)), 0.1)
        ns.solve(ns.ConvexBargainingProblem(rng.standard_normal((n, n + 1)) + 1, domain), on_failure="return")


def misuse(native: object) -> None:
    """Wrong counts, kinds and sizes of arguments end in an error or in -1, never in a read beyond an array."""
    import numpy as np

    good = np.eye(4)
    odd = (
        None,
        3,
        "text",
        np.ones(3),
        np.ones((2, 3)),
        np.ones((4, 4), np.float32),
        np.ones((0, 0)),
        good[:, ::2],
        b"12",
    )
    names = ("weights", "solve", "certify", "examine", "inverse", "newton", "in_ball", "lottery", "instruction_set")
    for name in names:
        call = getattr(native, name)
        for count in range(16):
            for value in odd:
                for arguments in ([value] * count, [good, *[value] * count], [good] * count):
                    with contextlib.suppress(TypeError, ValueError, OverflowError, SystemError, IndexError):
                        call(*arguments)


FAULT = r"""
extern "C" int fault(int kind, int size) {
    int* block = new int[size];
    block[size - 1] = 1;
    int result = kind == 0 ? block[size] : (kind == 1 ? 1 << (size + 29) : block[size - 1]);
    delete[] block;
    return result;
}
"""


def self_test(compiler: str) -> None:
    """An overrun and a shift too far must each end the process; the same program without them must not."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "fault.cpp", Path(folder) / "fault.so"
        source.write_text(FAULT, encoding="utf-8")
        command = [*compiler.split(), *FLAGS, "-O0", "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        for kind, fails in ((2, False), (0, True), (1, True)):
            code = f"import ctypes; ctypes.CDLL({str(library)!r}).fault({kind}, 4)"
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment(compiler, library), capture_output=True, text=True
            )
            if (done.returncode != 0) != fails:
                sys.exit(f"fault {kind} ended with {done.returncode}: {done.stderr[-500:]}")
    print("the sanitizers notice faults")


def main() -> None:
    if os.environ.get("NASH_SANITIZED"):
        native = load(os.environ["NASH_SANITIZED"])
        misuse(native)
        for name in SETS:
            try:
                native.instruction_set(name)
            except ValueError:
                continue
            exercise(native, name)
            print(f"{name}: clean", flush=True)
        return
    build = hatch_build()
    compiler = build.compiler()
    self_test(compiler)
    if "--self-test" in sys.argv[1:]:
        return
    with tempfile.TemporaryDirectory() as folder:
        library = build.build(FLAGS, Path(folder) / "_native.abi3.so")
        settings = environment(compiler, library)
        subprocess.run([sys.executable, __file__], env=settings, check=True)
        chosen = "families or bad or length_zero or launch or start or float or memory or points or inactive"
        tests = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/kernels/test_device.py",
            "-k",
            chosen,
        ]
        subprocess.run(tests, env=settings, check=True, cwd=ROOT)
    print("clean under AddressSanitizer and UndefinedBehaviorSanitizer")


if __name__ == "__main__":
    main()
