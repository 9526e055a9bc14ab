"""The short way through the kernel: it answers as the general path does, or leaves the call to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import direct, kernels
from nashsolve.backends.compiled import Compiled
from nashsolve.core.certificate import Certificate, verify
from nashsolve.core.status import Status
from tests.asserts import assert_bitwise
from tests.tolerances import tolerance

native = kernels.load()
pytestmark = pytest.mark.skipif(native is None, reason=f"the kernel is not built: {kernels.reason()}")

SIZES = (1, 2, 3, 7, 8, 9, 16, 17, 31, 64)


def grams(n: int, count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng([n, seed]).standard_normal((count, n, 2 * n + 1))
    found = rows @ rows.swapaxes(-1, -2)
    return 0.5 * found + 0.5 * found.swapaxes(-1, -2)


@pytest.fixture(params=["base", "v3", "v4", "device"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each build of the kernel that this processor runs, and the host twin of the GPU's."""
    before = native.instruction_set()
    try:
        native.instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.instruction_set(before)


@pytest.mark.parametrize("n", SIZES)
def test_every_instruction_set_gives_certified_answers(n: int, instruction_set: str) -> None:
    """Judged by the certificate in Python, which shares no code with the kernel."""
    for gram in grams(n, 3):
        weights = np.random.default_rng(n).uniform(0.2, 5, n)
        problem = ns.BargainingProblem(gram=gram, weights=weights, radius=2.5)
        found = ns.solve(problem, solver="compiled")
        assert found.status is Status.SOLVED and found.solver == "compiled"
        proof = verify(problem, found.alpha)
        assert proof.error_bound.max() <= tolerance("float64", "rtol")


@pytest.mark.parametrize("n", SIZES)
def test_certificate_of_the_kernel_is_that_of_the_core(n: int, instruction_set: str) -> None:
    """For answers right and wrong, every number agrees, up to the rounding of sums in another order."""
    rng = np.random.default_rng(n)
    for gram in grams(n, 2, seed=1):
        problem = ns.BargainingProblem(gram=gram, weights=rng.uniform(0.2, 5, n), radius=1.7)
        alpha = ns.solve(problem, solver="newton").alpha
        for distorted in (alpha, alpha * rng.uniform(0.9, 1.1, n)):
            mine = judged(problem, distorted)
            proof = verify(problem, distorted)
            # The bound is mostly rounding where the answer is right, and neither may leave its share out.
            np.testing.assert_allclose(mine["error_bound"], proof.error_bound, rtol=0.5)
            for field in fields(Certificate):
                name = {"simplex": "certificate"}.get(field.name, field.name)
                if name not in mine:
                    continue
                wanted = getattr(proof, field.name)
                floor = 1e-12 if name in ("gap", "backward_error", "angle_bound", "error_bound") else 0
                np.testing.assert_allclose(mine[name], wanted, rtol=1e-6, atol=floor, err_msg=name)


def judged(problem: ns.BargainingProblem, alpha: Any) -> dict[str, Any]:
    """The kernel's certificate of an alpha, by the names of Solution."""
    lines, numbers, code = np.empty((7, problem.n)), np.empty(11), np.empty((), dtype=np.int64)
    sides = problem.weights, problem.radius
    native.certify(problem.gram, *sides, problem.disagreement, alpha, 0.0, 1e-10, lines, numbers, code)
    names = ("alpha", "coefficients", "utilities", "gains", "error_bound", "blocking", "effective_weights")
    scalars = ("ball_multiplier", "log_nash_product", "gap", "backward_error", "angle_bound", "margin", "margin_lower")
    return dict(zip(names, lines, strict=True)) | dict(zip(scalars, numbers[:7], strict=True))


@pytest.mark.parametrize("n", [n for n in SIZES if n > 1])
def test_disagreement_points_on_every_instruction_set(n: int, instruction_set: str) -> None:
    """Below zero, between, and near the edge of what the ball allows: certified, and newton's answer."""
    rng = np.random.default_rng([n, 5])
    for share in (-0.3, 0.5, 0.95):
        rows = rng.standard_normal((n, n + 2))
        towards = np.linalg.lstsq(rows, rng.uniform(0.5, 1.5, n), rcond=None)[0]
        utilities = rows @ towards / np.linalg.norm(towards)
        gram = rows @ rows.T
        problem = ns.BargainingProblem(
            gram=gram, weights=rng.uniform(0.3, 3, n), disagreement=share * utilities, radius=1
        )
        short = direct.solve(problem, None, lambda part: None)
        assert short is not None and short.status is Status.SOLVED
        assert verify(problem, short.alpha).error_bound.max() <= tolerance("float64", "rtol")
        other = ns.solve(problem, solver="newton")
        assert (np.abs(short.alpha / other.alpha - 1) <= short.error_bound + other.error_bound).all()
        mine = judged(problem, short.alpha)
        np.testing.assert_allclose(mine["gains"], short.utilities - problem.disagreement, rtol=1e-12)


def test_what_the_kernel_leaves_open_with_a_disagreement_point() -> None:
    """An inactive ball and a point out of reach are finished by the general path, also within a batch."""
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    inactive = ns.solve(ns.BargainingProblem(gram=opposed, disagreement=[-1.0, -1.0], radius=5.0), solver="compiled")
    assert inactive.success and inactive.ball_multiplier == 0
    grams_ = np.stack([np.eye(2), np.eye(2), opposed])
    d = np.array([[0.1, 0.2], [2.0, 2.0], [-1.0, -1.0]])
    batch = ns.solve(ns.BargainingProblem(gram=grams_, disagreement=d, radius=1.0), solver="compiled")
    assert batch.status.tolist() == [Status.SOLVED, Status.NO_AGREEMENT, Status.SOLVED]
    alone = ns.solve(ns.BargainingProblem(gram=np.eye(2), disagreement=d[0], radius=1.0))
    assert_bitwise(batch.alpha[0], alone.alpha)


def test_a_wrong_answer_gets_the_same_status_from_both() -> None:
    gram = grams(5, 1)[0]
    problem = ns.BargainingProblem(gram=gram)
    wrong = ns.solve(problem).alpha * np.array([1, 1, 1, 1, 1.01])
    code = np.empty((), dtype=np.int64)
    native.certify(gram, None, None, None, wrong, 0.0, 1e-10, np.empty((7, 5)), np.empty(11), code)
    assert Status(int(code)) is Status.NUMERICAL_ERROR


@pytest.mark.parametrize("n", [3, 8, 9, 20])
def test_results_depend_on_neither_threads_nor_neighbours(n: int) -> None:
    stack = grams(n, 1500)
    one = ns.solve(stack, threads=1)
    assert_bitwise(one.alpha, ns.solve(stack, threads=3).alpha)
    assert_bitwise(one.alpha[7], ns.solve(stack[7]).alpha)
    assert_bitwise(one.error_bound[7], ns.solve(stack[7]).error_bound)


def test_layouts_and_libraries_share_the_answer() -> None:
    torch = pytest.importorskip("torch")
    gram = grams(6, 1)[0]
    wanted = ns.nash_weights(gram)
    wide = np.zeros((12, 12))
    wide[::2, ::2] = gram
    for same in (np.asfortranarray(gram), wide[::2, ::2]):
        assert_bitwise(ns.nash_weights(same), wanted)
    tensor = torch.from_numpy(gram)
    assert_bitwise(ns.nash_weights(tensor).numpy(), wanted)
    found = ns.solve(tensor)
    assert isinstance(found.alpha, torch.Tensor) and found.solver == "compiled"
    assert isinstance(found.gap, torch.Tensor) and found.gap.ndim == 0
    assert_bitwise(found.alpha.numpy(), wanted)


def test_float32_takes_the_general_path_and_stays_float32() -> None:
    found = ns.solve(grams(4, 1)[0].astype(np.float32))
    assert found.alpha.dtype == np.float32 and found.solver == "compiled" and found.success
    assert ns.nash_weights(grams(4, 1)[0].astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("n", SIZES)
def test_floats_keep_their_bounds_on_every_instruction_set(n: int, instruction_set: str) -> None:
    """Single problems and batches of every length end in the same bits, certified by the code in Python."""
    stack = grams(n, 19)
    found = ns.solve(stack, solver="compiled", precision="float32")
    assert (found.status == Status.SOLVED).all()
    assert found.error_bound.max() <= tolerance("float32", "rtol")
    exact = ns.solve(stack, solver="newton")
    assert (np.abs(found.alpha / exact.alpha - 1) <= found.error_bound + exact.error_bound).all()
    assert n == 1 or not (found.alpha == exact.alpha).all()
    for item in (0, 18):
        alone = ns.solve(stack[item], precision="float32")
        assert_bitwise(alone.alpha, found.alpha[item])
        proof = verify(alone.problem, alone.alpha)
        np.testing.assert_allclose(proof.error_bound, alone.error_bound, rtol=tolerance("float64", "rtol") ** 0.5)


def test_what_floats_cannot_decide_is_said(instruction_set: str) -> None:
    """Error grows like eps32 / margin**2: less accurate, then undecided, and never more than the bound."""
    for margin, wanted in ((1e-1, (0,)), (1e-2, (1,)), (1e-3, (1, 3)), (1e-5, (3,))):
        rows = np.array([[1.0, margin, 0.0], [-1.0, margin, 0.0], [0.0, 0.5, 1.0]])
        found = ns.solve(rows @ rows.T, precision="float32", on_failure="return")
        assert found.status in wanted and (found.limited_by == "precision") == (found.status != 0)
        if found.success:
            exact = ns.solve(rows @ rows.T)
            assert (np.abs(found.alpha / exact.alpha - 1) <= found.error_bound + exact.error_bound).all()
        batch = ns.solve(np.stack([np.eye(3), rows @ rows.T]), precision="float32")
        assert batch.status.tolist() == [0, found.status] and batch.limited_by == found.limited_by
    asked = ns.solve(np.eye(3) + 0.1, precision="float32", rtol=1e-9, on_failure="return")
    assert asked.status is Status.SOLVED_INACCURATE and asked.limited_by == "precision"
    opposed = ns.solve(np.array([[1.0, -1.0], [-1.0, 1.0]]), precision="float32", on_failure="return")
    assert opposed.status is Status.NO_AGREEMENT and opposed.limited_by == ""


def test_precision_is_one_of_two() -> None:
    gram = grams(3, 1)[0]
    for call in (ns.solve, ns.nash_weights, lambda g, precision: ns.solve(g, solver="compiled", precision=precision)):
        with pytest.raises(ns.InvalidProblem, match=r"precision is 'float23'; choose one of .* Did you mean 'float32'"):
            call(gram, precision="float23")
    with pytest.raises(ns.InvalidProblem, match="precision is 32"):
        Compiled(precision=32)
    with pytest.raises(ns.InvalidProblem, match="precision"):
        ns.solve(gram, solver="newton", precision="float32")
    assert_bitwise(ns.solve(gram, precision="float64").alpha, ns.solve(gram).alpha)
    assert_bitwise(ns.nash_weights(gram, precision="float32"), ns.solve(gram, precision="float32").alpha)
    assert Compiled(precision="float32").rtol == 1e-5 and Compiled().rtol is None


def test_floats_with_vectors_and_a_disagreement_point() -> None:
    """Corrected through the vectors in float64; elsewhere as accurate as floats are."""
    rows = np.random.default_rng(3).standard_normal((4, 9))
    for given in (
        {"vectors": rows},
        {"vectors": rows, "disagreement": -0.3 * np.ones(4), "radius": 1.0},
        {"gram": rows @ rows.T, "disagreement": -0.3 * np.ones(4), "radius": 1.0},
    ):
        problem = ns.BargainingProblem(**given)
        rough, exact = (ns.solve(problem, solver="compiled", precision=p) for p in ("float32", "float64"))
        assert rough.status is Status.SOLVED and rough.solver == "compiled"
        assert (np.abs(rough.alpha / exact.alpha - 1) <= rough.error_bound + exact.error_bound).all()
        assert (rough.error_bound.max() <= tolerance("float64", "rtol")) == ("vectors" in given)


def test_lean_path_raises_where_solve_does() -> None:
    gram = grams(4, 1)[0]
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    with pytest.raises(ns.NoAgreement):
        ns.nash_weights(opposed)
    for bad, words in (
        (gram + np.triu(np.ones((4, 4)), 1), "not symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive semidefinite"),
        (np.full((3, 3), np.nan), "finite"),
    ):
        with pytest.raises(ns.InvalidProblem, match=words):
            ns.nash_weights(bad)
    with pytest.raises(ns.InvalidProblem, match="weights"):
        ns.nash_weights(gram, np.array([1.0, 1.0, -1.0, 1.0]))


def test_rounded_halves_are_averaged() -> None:
    gram = grams(5, 1)[0]
    rough = gram.copy()
    rough[0, 1] = np.nextafter(rough[0, 1], np.inf)
    found = ns.solve(rough)
    assert_bitwise(found.alpha, ns.solve(0.5 * rough + 0.5 * rough.T).alpha)
    assert (found.problem.gram == found.problem.gram.T).all() and rough[0, 1] != rough[1, 0]


def test_options_change_something() -> None:
    hard = ns.gram(np.array([[1.0, 1e-3, 0], [-1.0, 1e-3, 0.1], [0, 0, 1.0]]))
    assert ns.solve(hard, max_iter=1, on_failure="return").status is Status.MAX_ITER
    assert ns.solve(hard, rtol=1e-6).status is Status.SOLVED
    assert ns.solve(hard, rtol=0.0).status is Status.SOLVED_INACCURATE
    with pytest.raises(ns.InvalidProblem, match="threads"):
        ns.solve(hard, threads=0)
    wanted = ns.solve(hard)
    for same in ({"max_iter": 64.0}, {"max_iter": 10**12}, {"max_iter": None, "rtol": None, "threads": None}):
        for solver in ("auto", "compiled", "newton"):
            if solver == "newton" and "threads" in same:
                continue
            found = ns.solve(hard, solver=solver, **same)
            assert found.n_iter == (wanted if solver != "newton" else ns.solve(hard, solver="newton")).n_iter


def test_a_limit_beyond_what_the_kernel_counts_is_none() -> None:
    """Not a negative one, which no iteration would ever meet."""
    blocked = ns.BargainingProblem(gram=np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert ns.solve(blocked, max_iter=2**31 + 5, on_failure="return").status is Status.NO_AGREEMENT


def test_vectors_with_a_disagreement_point_run_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else crosscheck would count NumPy's path twice."""
    import nashsolve.backends.compiled as room

    rng = np.random.default_rng(4)
    rows = rng.standard_normal((4, 7)) + 1
    problem = ns.BargainingProblem(
        vectors=rows, weights=rng.uniform(0.5, 2, 4), disagreement=-rng.uniform(0, 1, 4), radius=2
    )
    wanted = ns.solve(problem, solver="newton")
    monkeypatch.setattr(room, "solve_with_disagreement", lambda *_: pytest.fail("NumPy's path was taken"))
    for mine in (ns.solve(problem, solver="compiled"), ns.solve(problem)):
        assert mine.solver == "compiled"
        assert (np.abs(mine.alpha / wanted.alpha - 1) <= mine.error_bound + wanted.error_bound).all()


def test_a_start_near_the_answer_saves_iterations_and_a_bad_one_costs_none() -> None:
    hard = ns.gram(np.array([[1.0, 1e-3, 0], [-1.0, 1e-3, 0.1], [0, 0, 1.0]]))
    cold = ns.solve(hard)
    assert ns.solve(hard, start=cold).n_iter < cold.n_iter
    assert ns.solve(hard, start=np.array([1e20, 1e-5, 1.0])).n_iter <= cold.n_iter


def test_without_the_kernel_auto_goes_on_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = grams(4, 1)[0]
    with_kernel = ns.solve(gram)
    monkeypatch.setattr(kernels, "_try", lambda: (None, "no such file"))
    assert direct.solve(gram, None, lambda problem: None) is None
    found = ns.solve(gram)
    assert found.solver == "newton"
    assert (np.abs(found.alpha / with_kernel.alpha - 1) <= found.error_bound + with_kernel.error_bound).all()
    assert ns.nash_weights(gram).shape == (4,)
    with pytest.raises(ns.MissingExtra, match="no such file"):
        ns.solve(gram, solver="compiled")


def test_the_lean_path_tests_pairs_of_players_only() -> None:
    """Documented: the full test of definiteness costs a factorisation and belongs to solve()."""
    eye = np.eye(3)
    indefinite = eye + 0.75 * (np.eye(3, k=1) + np.eye(3, k=-1)) - 0.9 * (np.eye(3, k=2) + np.eye(3, k=-2))
    assert np.linalg.eigvalsh(indefinite)[0] < 0
    alpha = ns.nash_weights(indefinite)
    np.testing.assert_allclose(alpha * (indefinite @ alpha), 1, rtol=tolerance("float64", "rtol"))
    with pytest.raises(ns.InvalidProblem, match="semidefinite"):
        ns.solve(indefinite)


@pytest.mark.parametrize("error", [1e-4, 0.01, 0.1, 0.5])
def test_a_gram_known_to_be_wrong_proves_nothing_within_its_error(error: float) -> None:
    """Players at a margin inside the stated error are AMBIGUOUS, never NO_AGREEMENT; exact opposites stay so."""
    near = np.sqrt(error) / 10
    gram = np.array([[1.0, near**2 * 2 - 1], [near**2 * 2 - 1, 1.0]])
    for solver in ("auto", "newton"):
        problem = ns.BargainingProblem(gram=gram, gram_error=error)
        assert ns.solve(problem, solver=solver, on_failure="return").status is Status.AMBIGUOUS
        exact = ns.BargainingProblem(gram=np.array([[1.0, -1.0], [-1.0, 1.0]]), gram_error=error)
        assert ns.solve(exact, solver=solver, on_failure="return").status is Status.NO_AGREEMENT
