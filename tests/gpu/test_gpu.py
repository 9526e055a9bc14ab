"""On a CUDA device: the contract, the fault rows G01 to G12 and N10, and no wait for the host.

Everything here is skipped, with the reason, where no device is. What a machine without one can check of these rows is
in test_without.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402
from nashsolve.backends import catalog  # noqa: E402
from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.core.status import Status  # noqa: E402
from tests.tall.conftest import draw, draw_experts, relative_error, stacked  # noqa: E402

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _engines():
    for name in ("newton", "cupy"):
        row = next((row for row in catalog.CATALOG if row.name == name), None)
        reason = f"there is no engine {name!r}" if row is None else ""
        if name == "cupy" and not reason:
            try:
                import cupy  # noqa: F401
            except ImportError:
                reason = "cupy is not installed"
        yield pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason or "it is there"))


ENGINES = list(_engines())


def grams(count, n, seed=0):
    rows = draw((count, n, 2 * n), seed, torch.float64)
    return rows @ rows.mT


def on_device(experts):
    return [[t.to(DEVICE) for t in e] for e in experts]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 16, 17, 32, 33, 60, 64])
def test_g11_agrees_with_the_cpu_within_the_bounds(engine, n):
    count = 20_000 if n <= 8 else 1000
    batch = grams(count, n)
    found = ns.solve(batch.to(DEVICE), solver=engine)
    wanted = ns.solve(batch, solver="newton")
    assert found.alpha.device.type == DEVICE and found.alpha.dtype == torch.float64
    assert torch.equal(torch.as_tensor(found.status).cpu(), torch.as_tensor(wanted.status))
    bound = found.error_bound.cpu() + wanted.error_bound
    assert bool(((found.alpha.cpu() / wanted.alpha - 1).abs() <= bound + 1e-15).all())


@pytest.mark.parametrize("engine", ENGINES)
def test_statuses_per_item(engine):
    batch = grams(3, 2)
    batch[1] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    batch[2, 0, 0] = torch.nan
    found = ns.solve(batch.to(DEVICE), solver=engine)
    wanted = [int(Status.SOLVED), int(Status.NO_AGREEMENT), int(Status.INVALID_INPUT)]
    assert torch.as_tensor(found.status).tolist() == wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_bits_repeat(engine):
    batch = grams(500, 16).to(DEVICE)
    assert torch.equal(ns.solve(batch, solver=engine).alpha, ns.solve(batch, solver=engine).alpha)


@pytest.mark.parametrize("engine", ENGINES)
def test_g01_streams(engine):
    """The data are made, solved and read on streams of their own, with nothing but stream order between them."""
    batch = grams(1000, 8).to(DEVICE)
    wanted = ns.solve(batch, solver=engine).alpha
    for _ in range(20):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(1_000_000)
            alpha = ns.solve(batch * 1.0, solver=engine).alpha
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(alpha, wanted)


def test_g02_gram_and_combine_wait_for_nothing():
    experts, base = draw_experts(5, [(300, 17), (77,)], torch.bfloat16)
    experts, base = on_device(experts), on_device([base])[0]
    c = torch.full((5,), 0.2, device=DEVICE, dtype=torch.float64)
    for method in ("auto", "torch"):
        ns.combine(base, experts, c, method=method)
        ns.gram_of_differences(experts, base, method=method)
        torch.cuda.set_sync_debug_mode("error")
        try:
            ns.gram_of_differences(experts, base, method=method)
            ns.combine(base, experts, c, momentum=0.5j, method=method)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("engine", [p for p in ENGINES if p.values[0] == "cupy"])
def test_g02_the_solve_waits_for_nothing(engine):
    batch = grams(100, 8).to(DEVICE)
    ns.solve(batch, solver=engine)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ns.solve(batch, solver=engine)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_g03_short_memory_narrows_the_blocks():
    experts = [torch.randn(2_000_000, device=DEVICE) for _ in range(4)]
    wanted = ns.gram_of_differences(experts, method="torch")
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (total - free + 2**23) / total))
    try:
        found = ns.gram_of_differences(experts, method="torch")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert relative_error(found.gram, wanted.gram) <= wanted.gram_error


def test_g04_mixed_devices_raise():
    here, there = torch.zeros(4, device=DEVICE), torch.zeros(4)
    with pytest.raises(InvalidProblem, match="move one"):
        ns.gram_of_differences([here, there])
    with pytest.raises(InvalidProblem, match="move one"):
        ns.gram_of_differences([here, here], there)


def test_g05_bfloat16_in_both_libraries():
    batch = grams(4, 8).to(DEVICE).bfloat16().float().bfloat16()
    found = ns.solve(batch, rtol=1e-2)
    assert found.alpha.dtype == torch.float32
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    try:
        array = cupy.from_dlpack(batch)
    except Exception as error:
        pytest.skip(f"this cupy has no bfloat16: {error}")
    assert ns.solve(array, rtol=1e-2).success == found.success


@pytest.mark.parametrize("engine", ENGINES)
def test_g06_grad_and_strides(engine):
    batch = grams(6, 4).to(DEVICE)
    found = ns.solve(batch.requires_grad_(), solver=engine)
    found.alpha.sum().backward()
    assert bool(batch.grad.isfinite().all())
    plain = batch.detach()
    strided = torch.stack([plain, plain])[:, ::2].transpose(0, 1)[:, 0]
    assert torch.allclose(ns.solve(strided, solver=engine).alpha, found.alpha.detach()[::2])


def test_g07_gram_and_combine_in_a_graph():
    experts = [torch.randn(5000, device=DEVICE) for _ in range(4)]
    base, out = torch.randn(5000, device=DEVICE), torch.empty(5000, device=DEVICE)
    c = torch.full((4,), 0.25, device=DEVICE, dtype=torch.float64)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            ns.gram_of_differences(experts, base)
            ns.combine(base, experts, c, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        gram = ns.gram_of_differences(experts, base).gram
        ns.combine(base, experts, c, out=out)
    for e in experts:
        e.normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(gram, ns.gram_of_differences(experts, base).gram)
    assert torch.equal(out, ns.combine(base, experts, c))


def test_g09_a_kernel_that_cannot_be_built_falls_back(monkeypatch):
    from nashsolve.tall import fused

    monkeypatch.setattr(fused, "gram_fused", lambda read: 1 / 0)
    experts = [torch.randn(500, device=DEVICE) for _ in range(3)]
    with pytest.warns(RuntimeWarning, match="triton kernel failed"):
        found = ns.gram_of_differences(experts)
    assert torch.equal(found.gram, ns.gram_of_differences(experts, method="torch").gram)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 1001, 4097])
@pytest.mark.parametrize("n", [1, 3, 17, 61])
def test_g10_odd_sizes(n, length):
    experts = draw((n, length), n, torch.bfloat16)
    found = ns.gram_of_differences(list(experts.to(DEVICE)))
    exact = experts.double() @ experts.double().T
    size = exact.diagonal().sqrt()
    assert bool(((found.gram.cpu() - exact).abs() <= found.gram_error * size[:, None] * size).all())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("method", ["auto", "torch"])
def test_g12_the_users_flags_change_no_promise(fast, method):
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction
    experts, base = draw_experts(8, [(40_000,)])
    exact = stacked(experts, base) @ stacked(experts, base).T
    try:
        matmul.allow_tf32 = matmul.allow_bf16_reduced_precision_reduction = fast
        found = ns.gram_of_differences(on_device(experts), on_device([base])[0], method=method)
    finally:
        matmul.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = before
    assert relative_error(found.gram.cpu(), exact) <= found.gram_error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_n10_long_sums_of_positive_numbers(dtype):
    """All products positive, so that a truncating accumulator would lose in one direction only."""
    x = torch.randn(16, 2**23, device=DEVICE).abs().to(dtype)
    found = ns.gram_of_differences(list(x))
    exact = torch.zeros(16, 16, device=DEVICE, dtype=torch.float64)
    for start in range(0, x.shape[1], 2**20):
        part = x[:, start : start + 2**20].double()
        exact += part @ part.T
    assert relative_error(found.gram, exact) <= found.gram_error


def test_the_benchmark_runs():
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--only", "ceilings,differences"]
    run = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert run.returncode == 0, run.stderr
