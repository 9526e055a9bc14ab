"""Rows P01 and P04-P13 of the fault table: signals, processes, threads, imports, global state, foreign solvers."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import Status
from nashsolve.backends import catalog
from tests.asserts import assert_bitwise, assert_message, assert_same_alpha, assert_status
from tests.faults.cases import GRAM, OPPOSED, VECTORS
from tests.helpers import needs

P = ns.BargainingProblem


def run_python(code: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs)


@pytest.mark.parametrize("kind", [pytest.param("single", id="P01-single"), pytest.param("batch", id="P01-batch")])
def test_interrupt(kind: str) -> None:
    data = "rng.standard_normal((40, 60))" if kind == "single" else "rng.standard_normal((2000, 8, 12))"
    code = (
        "import numpy as np, nashsolve as ns\n"
        f"rng = np.random.default_rng(0); rows = {data}\n"
        "ns.solve(ns.BargainingProblem(vectors=rows))\n"
        "print('ready', flush=True)\n"
        "while True:\n    ns.solve(ns.BargainingProblem(vectors=rows))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    begin = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    took = time.perf_counter() - begin
    assert "KeyboardInterrupt" in errors and process.returncode != 0
    assert took < 0.5, f"{took:.2f} s"


def solve_bytes(vectors: np.ndarray) -> bytes:
    """In a worker process."""
    return ns.solve(P(vectors=vectors)).alpha.tobytes()


@pytest.mark.parametrize("method", [pytest.param("fork", id="P04-fork"), pytest.param("spawn", id="P04-spawn")])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_worker_processes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    rows = [np.random.default_rng(i).standard_normal((8, 12)) for i in range(4)]
    wanted = [solve_bytes(r) for r in rows]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(solve_bytes, rows).get(timeout=100) == wanted


@pytest.mark.parametrize("count", [pytest.param(8, id="P05-8-threads")])
def test_threads(count: int) -> None:
    rows = [np.random.default_rng(i).standard_normal((6, 9)) for i in range(16)]
    wanted = [solve_bytes(r) for r in rows]
    barrier = threading.Barrier(count)

    def work(_: int) -> list[bytes]:
        barrier.wait()
        return [solve_bytes(rows[i % 16]) for i in range(160)]

    with ThreadPoolExecutor(count) as pool:
        for found in pool.map(work, range(count)):
            assert found == [wanted[i % 16] for i in range(160)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cvxpy", id="P05-cvxpy", marks=needs("cvxpy")),
        pytest.param("ccp", id="P05-ccp", marks=needs("ccp")),
    ],
)
def test_threads_with_conic_engines(name: str) -> None:
    grams = [np.eye(3) + 0.1 * (i + 1) for i in range(4)]
    wanted = [ns.solve(g, solver=name, on_failure="return").alpha for g in grams]

    def work(i: int) -> np.ndarray:
        return ns.solve(grams[i % 4], solver=name, on_failure="return").alpha

    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(work, range(16))):
            assert_bitwise(found, wanted[i % 4])


@pytest.mark.parametrize("kind", [pytest.param("gil", id="P06-free-threading")])
def test_free_threading(kind: str) -> None:
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("this Python has a global interpreter lock; the thread tests above run all the same")
    test_threads(8)


@pytest.mark.parametrize("way", [pytest.param("pickle", id="P07-pickle"), pytest.param("deepcopy", id="P07-deepcopy")])
@pytest.mark.parametrize("kind", ["single", "batch", "none", "torch"])
def test_round_trip(way: str, kind: str) -> None:
    data: Any = {"single": GRAM, "batch": np.stack([GRAM, GRAM]), "none": OPPOSED, "torch": GRAM}[kind]
    if kind == "torch":
        data = pytest.importorskip("torch").from_numpy(GRAM)
    solution = ns.solve(P(gram=data, names=["a", "b", "c"]), on_failure="return")
    again = pickle.loads(pickle.dumps(solution)) if way == "pickle" else copy.deepcopy(solution)
    for name in ("alpha", "gap", "error_bound", "certificate", "coefficients"):
        assert_bitwise(getattr(again, name), getattr(solution, name))
    assert repr(again) == repr(solution) and again.problem.names == ("a", "b", "c")
    assert_bitwise(ns.solve(again.problem, on_failure="return").alpha, solution.alpha)


@pytest.mark.parametrize("name", [pytest.param(row.name, id=f"P07-solver-{row.name}") for row in catalog.CATALOG])
def test_solvers_round_trip(name: str) -> None:
    if catalog.missing(name):
        pytest.skip("not installed")
    engine = catalog.make(name)
    assert pickle.loads(pickle.dumps(engine)) == engine == copy.deepcopy(engine)


@pytest.mark.parametrize(
    "error", [pytest.param("NoAgreement", id="P07-error-none"), pytest.param("MissingExtra", id="P07-error-extra")]
)
def test_errors_round_trip(error: str) -> None:
    try:
        if error == "NoAgreement":
            ns.solve(OPPOSED)
        else:
            raise ns.MissingExtra("cvxpy", "cvxpy", "solver='ccp'")
    except ns.NashSolveError as caught:
        again = pickle.loads(pickle.dumps(caught))
        assert type(again) is type(caught) and str(again) == str(caught)


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {absent!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Hide())
import numpy as np, nashsolve as ns
"""
OPTIONAL = (
    "cvxpy",
    "clarabel",
    "torch",
    "cupy",
    "matplotlib",
    "typer",
    "rich",
    "pydantic",
    "yaml",
    "tqdm",
    "safetensors",
)


@pytest.mark.parametrize("solver", [pytest.param("cvxpy", id="P08-cvxpy"), pytest.param("ccp", id="P08-ccp")])
def test_optional_packages_absent(solver: str) -> None:
    code = HIDE.format(absent=OPTIONAL) + (
        "assert ns.solve(np.eye(2)).success\n"
        f"try: ns.solve(np.eye(2), solver={solver!r})\n"
        "except ImportError as error: assert isinstance(error, ns.MissingExtra); print(error)\n"
        "table = ns.crosscheck(np.eye(2)); assert table.agree, table\n"
        "assert 'not installed' in str(table)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "pip install 'nashsolve[cvxpy]'" in done.stdout and solver in done.stdout


@pytest.mark.parametrize("what", [pytest.param("modules", id="P09-modules"), pytest.param("state", id="P09-state")])
def test_import_has_no_side_effects(what: str) -> None:
    if what == "modules":
        code = (
            "import sys, nashsolve\n"
            f"print([m for m in {(*OPTIONAL, 'sklearn', 'transformers', 'pandas')!r} if m in sys.modules])\n"
        )
        done = run_python(code)
        assert done.stdout.strip() == "[]", done.stdout + done.stderr
        return
    code = (
        "import os, sys, logging, signal, threading, warnings, numpy as np, scipy, array_api_compat\n"
        "def state():\n"
        "    return (dict(os.environ), list(logging.getLogger().handlers), logging.getLogger().level,\n"
        "            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], threading.active_count(),\n"
        "            list(warnings.filters), np.geterr(), np.get_printoptions(), os.getcwd(), list(sys.path),\n"
        "            sys.excepthook)\n"
        "before = state()\n"
        "import nashsolve\n"
        "after = state()\n"
        "print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])\n"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("raise", id="P10-errstate-raise"),
        pytest.param("ignore", id="P10-errstate-ignore"),
        pytest.param("torch", id="P10-torch"),
    ],
)
def test_global_flags(mode: str) -> None:
    if mode != "torch":
        with np.errstate(all=mode):
            before = np.geterr()
            found = ns.solve(GRAM), ns.solve(np.stack([GRAM, OPPOSED])), ns.solve(OPPOSED, on_failure="return")
            assert np.geterr() == before
        assert_bitwise(found[0].alpha, ns.solve(GRAM).alpha)
        assert_bitwise(found[1].alpha, ns.solve(np.stack([GRAM, OPPOSED])).alpha)
        return
    torch = pytest.importorskip("torch")
    gram = torch.from_numpy(GRAM)
    wanted = ns.solve(gram).alpha

    def flags() -> list[Any]:
        return [
            torch.get_default_dtype(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().sum().item(),
        ]

    old = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        for dtype, precision in ((torch.float32, "high"), (torch.float64, "highest"), (torch.float16, "medium")):
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(dtype is torch.float64)
            before = flags()
            solution = ns.solve(gram)
            ns.solve(torch.stack([gram, torch.from_numpy(OPPOSED)]))
            ns.solve(P(gram=gram, disagreement=torch.full((3,), 0.1, dtype=torch.float64), radius=1.0))
            assert flags() == before
            assert_bitwise(solution.alpha, wanted)
            assert solution.alpha.dtype == torch.float64
    finally:
        torch.set_default_dtype(old[0])
        torch.set_float32_matmul_precision(old[1])
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("single", id="P11-single"),
        pytest.param("batch", id="P11-batch"),
        pytest.param("disagreement", id="P11-disagreement"),
    ],
)
def test_time_limit(kind: str) -> None:
    n = 600 if kind == "single" else 60
    rows = np.random.default_rng(0).standard_normal((n, 2 * n))
    gram = rows @ rows.T
    data = np.broadcast_to(gram, (50, n, n)) if kind == "batch" else gram
    extra = {"disagreement": np.full(n, 0.01), "radius": 50.0} if kind == "disagreement" else {}
    w = np.random.default_rng(1).uniform(0.01, 10, n)
    problem = P(gram=data, weights=w, **extra)
    assert ns.solve(problem).success
    found = ns.solve(problem, time_limit=0.0, on_failure="return")
    assert_status(found, Status.MAX_TIME)
    assert np.isfinite(found.alpha).all() and int(np.max(found.n_iter)) <= 1
    if kind == "single":
        with pytest.raises(ns.SolverFailed, match="time_limit"):
            ns.solve(problem, time_limit=0.0)


@needs("cvxpy")
@pytest.mark.parametrize(
    ("status", "damage"),
    [
        pytest.param("optimal_inaccurate", 1e-2, id="P12-inaccurate-wrong"),
        pytest.param("user_limit", 1e-2, id="P12-user-limit-wrong"),
        pytest.param("optimal", 1e-2, id="P12-optimal-wrong"),
        pytest.param("optimal_inaccurate", 0.0, id="P12-inaccurate-right"),
    ],
)
def test_what_cvxpy_claims_is_not_believed(status: str, damage: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import cvxpy as cp

    real = cp.Problem.solve

    def lying(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = real(self, *args, **kwargs)
        for variable in self.variables():
            if variable.value is not None:
                noise = damage * np.cos(np.arange(variable.size)).reshape(variable.shape)
                variable.save_value(variable.value * (1 + noise))
        for constraint in self.constraints:
            for dual in constraint.dual_variables:
                if dual.value is not None:
                    noise = damage * np.cos(np.arange(dual.size)).reshape(dual.shape)
                    dual.save_value(np.asarray(dual.value) * (1 + noise))
        self._status = status
        return value

    monkeypatch.setattr(cp.Problem, "solve", lying)
    solution = ns.solve(P(vectors=VECTORS), solver="cvxpy", on_failure="return")
    exact = ns.solve(P(vectors=VECTORS)).alpha
    if damage:
        assert solution.status is not Status.SOLVED
        assert (np.abs(solution.alpha / exact - 1) <= solution.error_bound).all()
    else:
        assert_status(solution, Status.SOLVED)


@needs("cvxpy")
@pytest.mark.parametrize("limit", [pytest.param(1, id="P12-real-limit-1"), pytest.param(5, id="P12-real-limit-5")])
def test_cvxpy_stopped_early(limit: int) -> None:
    solution = ns.solve(GRAM, solver="cvxpy", settings={"max_iter": limit}, on_failure="return")
    assert solution.status is not Status.SOLVED
    if solution.success:
        exact = ns.solve(GRAM).alpha
        assert (np.abs(solution.alpha / exact - 1) <= solution.error_bound).all()


@needs("cvxpy")
@pytest.mark.parametrize("solver", ["cvxpy", "ccp"])
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("missing", id="P13-missing"),
        pytest.param("crash", id="P13-crash"),
        pytest.param("none", id="P13-none"),
    ],
)
def test_cvxpy_solver_fails(how: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cvxpy as cp

    def fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        if how == "none":
            self._status = "solver_error"
            for variable in self.variables():
                variable.save_value(None)
            return None
        raise cp.error.SolverError("The solver is not installed." if how == "missing" else "Solver crashed.")

    monkeypatch.setattr(cp.Problem, "solve", fails)
    if how == "missing":
        monkeypatch.setattr(cp, "installed_solvers", lambda: ["OSQP"])
    with pytest.raises(ns.SolverFailed) as caught:
        ns.solve(GRAM, solver=solver)
    assert_message(caught.value, solver if how != "missing" else "")
    table = ns.crosscheck(GRAM)
    assert table.best is not None and table.best.solver == "newton" and table.best.success
    assert_same_alpha(table.best, ns.solve(GRAM))


@needs("cvxpy")
@pytest.mark.parametrize("name", [pytest.param("NOTHING", id="P13-unknown-solver")])
def test_unknown_conic_solver(name: str) -> None:
    with pytest.raises(ns.NashSolveError, match=name):
        ns.solve(GRAM, solver="cvxpy", conic_solver=name)


def test_environment_is_untouched() -> None:
    before = dict(os.environ)
    ns.solve(GRAM)
    assert dict(os.environ) == before
