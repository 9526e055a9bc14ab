"""On a CUDA device with CuPy, what only a device can show of the engine `cupy`: graphs, waits, races."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
cupy = pytest.importorskip("cupy", reason="cupy is not installed") if torch.cuda.is_available() else None

import nashsolve as ns  # noqa: E402
from benchmarks import families  # noqa: E402
from nashsolve.on_device import Prepared  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def grams(n: int, count: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(100 * n + seed)
    rows = torch.randn(count, n, 2 * n, dtype=torch.float64, generator=generator)
    found = rows @ rows.mT
    return (0.5 * found + 0.5 * found.mT).cuda()


def test_cupy_arrays_in_and_out() -> None:
    batch = grams(6, 10)
    found = ns.solve(cupy.asarray(batch.cpu().numpy()))
    assert isinstance(found.alpha, cupy.ndarray) and isinstance(found.status, cupy.ndarray)
    assert np.array_equal(found.alpha.get(), ns.solve(batch).alpha.cpu().numpy())


@pytest.mark.parametrize("n", [2, 8, 9, 16, 17, 32, 33, 64])
def test_families(n: int) -> None:
    every = (*families.FEASIBLE.values(), *families.INFEASIBLE.values())
    batch = np.stack([rows @ rows.T for rows in (make(n, 0) for make in every)])
    found, wanted = ns.solve(torch.from_numpy(batch).cuda()), ns.solve(batch, solver="newton")
    assert found.solver == "cupy" and found.status.tolist() == wanted.status.tolist()


@pytest.mark.parametrize("single", [False, True])
def test_nothing_waits(single: bool) -> None:
    batch = grams(8, 50)
    weights, radius, start = torch.ones(8).double().cuda(), torch.ones(50).double().cuda(), torch.ones(50, 8).cuda()
    if single:
        batch, radius, start = batch[0], radius[0], start[0]

    def call() -> Any:
        problem = ns.BargainingProblem(gram=batch, weights=weights, radius=radius)
        return ns.solve(problem, start=start, on_failure="return")

    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.success


@pytest.mark.parametrize("n", [8, 32, 64])
@pytest.mark.parametrize("way", ["prepared", "solve"])
def test_in_a_graph(n: int, way: str) -> None:
    batch = grams(n, 20)
    plan = Prepared(batch)
    side, kept = torch.cuda.Stream(), []

    def call() -> None:
        if way == "prepared":
            plan.run()
        else:
            kept[:] = [ns.solve(batch, solver="cupy")]

    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        call()
    batch.copy_(grams(n, 20, seed=1))
    graph.replay()
    torch.cuda.synchronize()
    alpha = plan.alpha if way == "prepared" else kept[0].alpha
    assert torch.equal(alpha, ns.solve(grams(n, 20, seed=1)).alpha)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool: str) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not on the path")
    code = (
        "import cupy, numpy as np, nashsolve as ns\n"
        "for n in (3, 8, 13, 30, 33, 64):\n"
        "    rows = np.random.default_rng(n).standard_normal((5, n, n + 2))\n"
        "    gram = rows @ rows.swapaxes(-1, -2); gram[1] = 0; gram[2] = np.nan\n"
        "    gram[3] = np.ones((n, n)) - 2 * (np.arange(n)[:, None] % 2 != np.arange(n) % 2)\n"
        "    ns.solve(cupy.asarray(gram)).status.get()\n"
    )
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
