"""Rows S01-S34 of the fault table: what solve() does with every kind of input."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve import Status
from tests.asserts import (
    assert_bitwise,
    assert_message,
    assert_near,
    assert_no_agreement_certificate,
    assert_same_alpha,
    assert_same_kind,
    assert_solves,
    assert_status,
    assert_success,
    assert_within_bound,
)
from tests.faults.cases import GRAM, OPPOSED, VECTORS, changed
from tests.tolerances import tolerance

RTOL = tolerance("float64", "rtol")
ULP = tolerance("float64", "ulp")
NAN, INF = float("nan"), float("inf")

P = ns.BargainingProblem


def one(**arguments: Any) -> ns.Solution:
    return ns.solve(P(**arguments), on_failure="return")


# S01, S02: entries that are not finite


@pytest.mark.parametrize(
    ("name", "data", "index", "entry"),
    [
        pytest.param("gram", GRAM, (1, 1), NAN, id="S01-diagonal"),
        pytest.param("gram", GRAM, (0, 2), NAN, id="S01-upper"),
        pytest.param("gram", GRAM, (2, 0), NAN, id="S01-lower"),
        pytest.param("vectors", VECTORS, (2, 1), NAN, id="S01-vectors"),
        pytest.param("gram", GRAM, (1, 1), INF, id="S02-diagonal"),
        pytest.param("gram", GRAM, (0, 2), -INF, id="S02-upper"),
        pytest.param("gram", GRAM, (2, 0), INF, id="S02-lower"),
        pytest.param("vectors", VECTORS, (2, 1), -INF, id="S02-vectors"),
    ],
)
def test_not_finite(name: str, data: np.ndarray, index: tuple[int, int], entry: float) -> None:
    bad = changed(data, index, entry)
    with pytest.raises(ns.InvalidProblem) as caught:
        P(**{name: bad})
    assert_message(caught.value, f"{name}[{index[0]}, {index[1]}]", str(entry))
    for library in ("numpy", "torch"):
        stack = np.stack([data, bad, data])
        if library == "torch":
            stack = pytest.importorskip("torch").from_numpy(stack)
        solution = one(**{name: stack})
        assert np.asarray(solution.status).tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
        assert np.isnan(np.asarray(solution.alpha)[1]).all() and np.isfinite(np.asarray(solution.alpha)[[0, 2]]).all()
        assert f"{name}[1, {index[0]}, {index[1]}]" in solution.message


@pytest.mark.parametrize(
    ("arguments", "options", "parts"),
    [
        pytest.param({"weights": [1, NAN, 1]}, {}, ("weights[1]", "nan"), id="S03-weights-nan"),
        pytest.param({"weights": [1, 1, INF]}, {}, ("weights[2]", "inf"), id="S03-weights-inf"),
        pytest.param({"radius": NAN}, {}, ("radius", "nan"), id="S03-radius"),
        pytest.param(
            {"radius": 1.0, "disagreement": [0, INF, 0]}, {}, ("disagreement[1]", "inf"), id="S03-disagreement"
        ),
        pytest.param({"gram_error": NAN}, {}, ("gram_error", "nan"), id="S03-gram-error"),
        pytest.param({}, {"rtol": NAN}, ("rtol", "nan"), id="S03-rtol-nan"),
        pytest.param({}, {"rtol": INF}, ("rtol", "inf"), id="S03-rtol-inf"),
        pytest.param({}, {"rtol": -1.0}, ("rtol", "-1"), id="S03-rtol-negative"),
        pytest.param({}, {"max_iter": NAN}, ("max_iter", "nan"), id="S03-max-iter"),
        pytest.param({}, {"max_iter": -1}, ("max_iter", "-1"), id="S03-max-iter-negative"),
        pytest.param({}, {"max_iter": 2.5}, ("max_iter", "2.5"), id="S03-max-iter-fraction"),
        pytest.param({}, {"max_iter": "9"}, ("max_iter", "'9'"), id="S03-max-iter-text"),
        pytest.param({}, {"time_limit": INF}, ("time_limit", "inf"), id="S03-time-limit"),
    ],
)
def test_arguments_that_are_not_finite(arguments: dict, options: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.solve(P(gram=GRAM, **arguments), **options)
    assert_message(caught.value, *parts)


@pytest.mark.parametrize(
    "start", [pytest.param([1, NAN, 1], id="S03-start-nan"), pytest.param([1, INF, 1], id="S03-start-inf")]
)
def test_start_that_is_not_finite_is_ignored(start: list[float]) -> None:
    assert_bitwise(ns.solve(GRAM, start=start).alpha, ns.solve(GRAM).alpha)


# S04, S05: symmetry


@pytest.mark.parametrize("size", [pytest.param(1e-3, id="S04-small"), pytest.param(1.0, id="S04-large")])
def test_asymmetric(size: float) -> None:
    bad = changed(GRAM, (0, 1), GRAM[0, 1] + size * np.sqrt(2.0))
    with pytest.raises(ns.InvalidProblem) as caught:
        P(gram=bad)
    assert_message(caught.value, "not symmetric", f"{size:.3g}", "symmetrize=True")
    if size < 1:
        asked = ns.solve(P(gram=bad, symmetrize=True))
        assert_bitwise(asked.alpha, ns.solve((bad + bad.T) / 2).alpha)
    batch = one(gram=np.stack([GRAM, bad]))
    assert batch.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT]


@pytest.mark.parametrize("n", [pytest.param(3, id="S05-3"), pytest.param(40, id="S05-40")])
def test_asymmetry_at_rounding_level(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = rng.standard_normal((n, 2 * n))
    gram = rows @ rows.T
    gram = gram * (1 + 2.0**-52 * np.triu(rng.integers(-1, 2, (n, n)), 1))
    assert_bitwise(one(gram=gram).alpha, one(gram=gram.T).alpha)
    assert_same_alpha(one(gram=gram), one(gram=(gram + gram.T) / 2))


# S06, S07: definiteness


@pytest.mark.parametrize(
    "lowest",
    [pytest.param(-1e-3, id="S06-small"), pytest.param(-0.05, id="S06-large"), pytest.param(-1e-10, id="S06-tiny")],
)
def test_indefinite(lowest: float) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    gram = (turn * [1.0, 1.0, 1.0, lowest]) @ turn.T
    gram = (gram + gram.T) / 2
    with pytest.raises(ns.InvalidProblem) as caught:
        P(gram=gram)
    unit = gram / np.sqrt(np.outer(np.diagonal(gram), np.diagonal(gram)))
    found = float(str(caught.value).split("form is ")[1].split(",")[0])
    assert_message(caught.value, "not positive semidefinite", "rounding allowance")
    # equilibration by powers of two leaves diagonals in [1, 4)
    assert 4 * np.linalg.eigvalsh(unit)[0] <= found <= np.linalg.eigvalsh(unit)[0] / 4
    assert one(gram=np.stack([np.eye(4), gram])).status.tolist() == [Status.SOLVED, Status.INVALID_INPUT]


@pytest.mark.parametrize("n", [pytest.param(4, id="S07-4"), pytest.param(30, id="S07-30")])
def test_negative_eigenvalue_within_noise(n: int) -> None:
    rows = np.abs(np.random.default_rng(1).standard_normal((n, 2)))
    gram = rows @ rows.T
    _, basis = np.linalg.eigh(gram)
    gram = gram - n * 2.0**-52 * np.outer(basis[:, 0], basis[:, 0])
    gram = (gram + gram.T) / 2
    assert np.linalg.eigvalsh(gram)[0] < 0
    solution = one(gram=gram)
    assert_solves(gram, np.ones(n), solution)


# S08-S11: zero rows, shapes


@pytest.mark.parametrize("who", [pytest.param(0, id="S08-first"), pytest.param(2, id="S08-last")])
@pytest.mark.parametrize("kind", ["gram", "vectors"])
@pytest.mark.parametrize("solver", ["newton", "auto"])
def test_zero_row(who: int, kind: str, solver: str) -> None:
    rows = VECTORS.copy()
    rows[who] = 0
    data = rows if kind == "vectors" else rows @ rows.T
    solution = ns.solve(P(**{kind: data}), solver=solver, on_failure="return")
    assert_no_agreement_certificate(solution, rows @ rows.T)
    assert_bitwise(solution.certificate, np.eye(3)[who])
    with pytest.raises(ns.NoAgreement, match=f"player {who}"):
        ns.solve(P(**{kind: data}), solver=solver)


@pytest.mark.parametrize("entry", [pytest.param(-1.0, id="S09-one"), pytest.param(-1e-300, id="S09-tiny")])
def test_negative_diagonal(entry: float) -> None:
    bad = changed(GRAM, (1, 1), entry)
    with pytest.raises(ns.InvalidProblem) as caught:
        P(gram=bad)
    assert_message(caught.value, "diagonal of gram[1]", str(entry))
    assert one(gram=np.stack([bad, GRAM])).status.tolist() == [Status.INVALID_INPUT, Status.SOLVED]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        pytest.param({"gram": np.ones(3)}, ("gram", "(3,)"), id="S10-ndim"),
        pytest.param({"gram": np.float64(1)}, ("gram", "()"), id="S10-scalar"),
        pytest.param({"gram": np.ones((2, 3))}, ("gram", "(2, 3)"), id="S10-not-square"),
        pytest.param({"vectors": np.ones(3)}, ("vectors", "(3,)"), id="S10-vectors"),
        pytest.param({"gram": GRAM, "weights": np.ones(2)}, ("weights", "(2,)", "3"), id="S10-weights"),
        pytest.param({"gram": GRAM, "weights": 1.0}, ("weights", "()", "3"), id="S10-weights-scalar"),
        pytest.param(
            {"gram": GRAM, "disagreement": np.ones(4), "radius": 1},
            ("disagreement", "(4,)", "3"),
            id="S10-disagreement",
        ),
        pytest.param(
            {"gram": np.stack([GRAM] * 2), "weights": np.ones((3, 3))}, ("(2,)", "(3,)", "broadcast"), id="S10-batch"
        ),
        pytest.param({"gram": GRAM, "mask": np.ones(2, bool)}, ("mask", "(2,)", "3"), id="S10-mask"),
        pytest.param({"gram": GRAM, "names": ["a", "b"]}, ("names", "2", "3"), id="S10-names"),
        pytest.param({"vectors": VECTORS, "metric": np.ones(2)}, ("metric", "(2,)", "(3,)"), id="S10-metric"),
        pytest.param({"gram": GRAM, "metric": np.ones(3)}, ("metric", "vectors"), id="S10-metric-gram"),
        pytest.param({"gram": GRAM, "vectors": VECTORS}, ("exactly one",), id="S10-both"),
        pytest.param({}, ("exactly one",), id="S10-none"),
        pytest.param({"gram": [[1.0, 2.0], [3.0]]}, ("gram",), id="S10-ragged"),
    ],
)
def test_wrong_shape(arguments: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        P(**arguments)
    assert_message(caught.value, *parts)


@pytest.mark.parametrize(
    "start", [pytest.param(np.ones(2), id="S10-start"), pytest.param(np.float64(1), id="S10-start-scalar")]
)
def test_wrong_start_shape(start: Any) -> None:
    with pytest.raises(ns.InvalidProblem, match="start"):
        ns.solve(GRAM, start=start)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"gram": np.zeros((0, 0))}, id="S11-gram"),
        pytest.param({"vectors": np.zeros((0, 5))}, id="S11-vectors"),
        pytest.param({"gram": np.zeros((4, 0, 0))}, id="S11-batch"),
        pytest.param({"gram": np.zeros((0, 0)), "weights": np.zeros(0)}, id="S11-weights"),
    ],
)
def test_no_players(arguments: dict) -> None:
    solution = ns.solve(P(**arguments))
    assert_status(solution, Status.SOLVED)
    assert solution.success and solution.alpha.shape[-1] == 0
    assert (np.asarray(solution.gap) == 0).all()


# S12, S13: one and two players


@pytest.mark.parametrize("solver", ["newton", "closed_form", "auto"])
@pytest.mark.parametrize(
    ("a", "w"),
    [
        pytest.param(3.0, 1.0, id="S12-plain"),
        pytest.param(1e-300, 1e3, id="S12-small"),
        pytest.param(1e300, 1e-3, id="S12-large"),
    ],
)
def test_one_player(solver: str, a: float, w: float) -> None:
    solution = ns.solve(P(gram=[[a]], weights=[w]), solver=solver)
    assert_near(solution.alpha, [np.sqrt(w / a)], 2 * ULP / 4)


@pytest.mark.parametrize("rho", [pytest.param(r, id=f"S13-{r}") for r in (-0.999999, -0.5, 0.0, 0.5, 1.0)])
@pytest.mark.parametrize("k", [1e-6, 1.0, 7.0, 1e6])
def test_two_players(rho: float, k: float) -> None:
    import mpmath

    with mpmath.workdps(40):
        r, q = mpmath.mpf(rho), mpmath.mpf(k)
        t = (-r * (1 - q) + mpmath.sqrt((r * (1 - q)) ** 2 + 4 * q)) / 2
        second = mpmath.sqrt(1 / (1 + r * t))
        exact = np.array([float(t * second), float(second)])
    gram = np.array([[1.0, rho], [rho, 1.0]])
    amplification = float((exact * (np.abs(gram) @ exact) / [k, 1.0]).max())
    for solver in ("closed_form", "newton"):
        found = ns.solve(P(gram=gram, weights=[k, 1.0]), solver=solver)
        assert_near(found.alpha, exact, 2 * ULP * amplification)
        assert_within_bound(found, exact)


# S14, S15: weights


@pytest.mark.parametrize("entry", [pytest.param(0.0, id="S14-zero"), pytest.param(-2.0, id="S14-negative")])
def test_weights_not_positive(entry: float) -> None:
    with pytest.raises(ValueError) as caught:
        P(gram=GRAM, weights=[1.0, entry, 1.0])
    assert_message(caught.value, "weights[1]", str(entry), "positive")
    batch = one(gram=GRAM, weights=[[1.0, entry, 1.0], [1.0, 1.0, 1.0]])
    assert batch.status.tolist() == [Status.INVALID_INPUT, Status.SOLVED]


@pytest.mark.parametrize("total", [pytest.param(t, id=f"S15-{t}") for t in (1e-12, 1.0, 10.0, 1e12)])
def test_weights_of_any_sum(total: float) -> None:
    w = np.array([0.2, 0.3, 0.5])
    solution = one(gram=GRAM, weights=total * w)
    assert_solves(GRAM, total * w, solution)
    assert_same_alpha(solution, one(gram=GRAM, weights=w), np.sqrt(total))


# S16-S19: types


@pytest.mark.parametrize("dtype", [pytest.param(d, id=f"S16-{d}") for d in ("int64", "int8", "uint8", "bool")])
def test_dtypes_that_convert(dtype: str) -> None:
    gram = np.array([[1, 0], [0, 1]], dtype=dtype)
    solution = ns.solve(gram)
    assert_same_kind(solution.alpha, np.ones(2))
    assert_bitwise(solution.alpha, np.ones(2))


@pytest.mark.parametrize(
    "gram",
    [
        pytest.param(GRAM.astype(complex), id="S16-complex"),
        pytest.param(GRAM.astype(object), id="S16-object"),
        pytest.param(GRAM.astype(str), id="S16-str"),
        pytest.param([["a", "b"], ["c", "d"]], id="S16-text"),
        pytest.param(None, id="S16-none"),
        pytest.param({"a": 1}, id="S16-dict"),
        pytest.param(np.array([["2020-01-01"]], dtype="datetime64[D]"), id="S16-date"),
    ],
)
def test_dtypes_that_do_not_convert(gram: Any) -> None:
    error = ns.InvalidProblem if gram is None else TypeError
    with pytest.raises(error):
        P(gram=gram)


def test_torch_complex_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="complex"):
        P(gram=torch.eye(2, dtype=torch.complex128))


@pytest.mark.parametrize(
    ("library", "dtype"),
    [
        pytest.param("numpy", "float16", id="S17-numpy-float16"),
        pytest.param("torch", "float16", id="S17-torch-float16"),
        pytest.param("torch", "bfloat16", id="S17-torch-bfloat16"),
        pytest.param("numpy", "float32", id="S18-numpy"),
        pytest.param("torch", "float32", id="S18-torch"),
    ],
)
def test_narrow_dtypes(library: str, dtype: str) -> None:
    gram = np.array([[2.0, 0.5, -0.25], [0.5, 1.0, 0.25], [-0.25, 0.25, 3.0]])
    if library == "torch":
        torch = pytest.importorskip("torch")
        narrow = torch.from_numpy(gram).to(getattr(torch, dtype))
        exact, like = ns.solve(gram), torch.ones(3)
    else:
        narrow, exact, like = gram.astype(dtype), ns.solve(gram), np.ones(3, dtype=np.float32)
    solution = ns.solve(narrow, on_failure="return")
    assert_success(solution)
    assert_same_kind(solution.alpha, like, "float32")
    roundoff = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}[dtype]
    assert solution.problem.gram_error >= roundoff / 2
    assert (np.asarray(solution.error_bound) >= roundoff / 2).all()
    # these entries are exact in every dtype: computed wide, the answer is that of float64
    assert_near(solution.alpha, exact.alpha, tolerance("float32", "ulp"))


def _variants() -> dict[str, Any]:
    class Sub(np.ndarray):
        pass

    wide = np.zeros((6, 6))
    wide[::2, ::2] = GRAM
    locked = GRAM.copy()
    locked.flags.writeable = False
    return {
        "readonly": locked,
        "strided": wide[::2, ::2],
        "fortran": np.asfortranarray(GRAM),
        "swapped": GRAM.astype(GRAM.dtype.newbyteorder()),
        "negative-stride": GRAM[::-1, ::-1][::-1, ::-1],
        "subclass": GRAM.view(Sub),
        "list": GRAM.tolist(),
        "tuple": tuple(map(tuple, GRAM.tolist())),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("readonly", id="S19-readonly"),
        pytest.param("strided", id="S19-strided"),
        pytest.param("fortran", id="S19-fortran"),
        pytest.param("swapped", id="S19-byteswapped"),
        pytest.param("negative-stride", id="S19-negative-stride"),
        pytest.param("subclass", id="S19-subclass"),
        pytest.param("list", id="S19-list"),
        pytest.param("tuple", id="S19-tuple"),
    ],
)
def test_layouts(name: str) -> None:
    value = _variants()[name]
    before = np.array(value).tobytes()
    weights = np.ones(3)
    weights.flags.writeable = False
    solution = ns.solve(P(gram=value, weights=weights))
    assert_bitwise(solution.alpha, ns.solve(GRAM).alpha)
    assert type(solution.alpha) is np.ndarray
    assert np.array(value).tobytes() == before


def test_matrix_is_right_or_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        value = np.matrix(GRAM)
    solution = ns.solve(value)
    assert_bitwise(solution.alpha, ns.solve(GRAM).alpha)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("masked", id="S19-masked"),
        pytest.param("sparse", id="S19-sparse"),
        pytest.param("torch", id="S19-torch-sparse"),
    ],
)
def test_containers_that_are_refused(name: str) -> None:
    if name == "torch":
        torch = pytest.importorskip("torch")
        value = torch.eye(3).to_sparse()
    elif name == "masked":
        value = np.ma.masked_array(GRAM, mask=np.eye(3, dtype=bool))
    else:
        import scipy.sparse

        value = scipy.sparse.csr_array(GRAM)
    with pytest.raises(TypeError, match=name if name != "torch" else "sparse"):
        P(gram=value)


@pytest.mark.parametrize(
    "kind", [pytest.param("gram", id="S19-gram-unchanged"), pytest.param("vectors", id="S19-vectors-unchanged")]
)
def test_inputs_are_never_written_to(kind: str) -> None:
    data = {"gram": GRAM, "vectors": VECTORS}[kind].copy()
    given = {
        kind: data,
        "weights": np.array([1.0, 2.0, 3.0]),
        "disagreement": np.array([0.01, 0.0, -0.1]),
        "radius": np.array(2.0),
    }
    start = np.ones(3)
    before = {name: value.tobytes() for name, value in given.items()}
    ns.solve(P(**given), start=start)
    ns.solve(P(**{kind: data}), start=start)
    assert {name: value.tobytes() for name, value in given.items()} == before
    assert_bitwise(start, np.ones(3))


# S20-S23: scale


@pytest.mark.parametrize("k", [pytest.param(k, id=f"S20-{k}") for k in (-500, -37, -1, 1, 100, 500)])
def test_powers_of_two_change_no_bit(k: int) -> None:
    w = np.array([1.0, 0.3, 7.0])
    plain, scaled = one(gram=GRAM, weights=w), one(gram=GRAM * 4.0**k, weights=w)
    assert_bitwise(scaled.alpha * 2.0**k, plain.alpha)
    assert_bitwise(scaled.error_bound, plain.error_bound)
    factors = 2.0 ** np.array([k, -k, 3])
    assert_bitwise(one(gram=GRAM * np.outer(factors, factors), weights=w).alpha * factors, plain.alpha)
    assert_bitwise(one(vectors=VECTORS * factors[:, None]).alpha * factors, one(vectors=VECTORS).alpha)


@pytest.mark.parametrize("power", [pytest.param(p, id=f"S21-1e{p}") for p in (10, 75, 150)])
@pytest.mark.parametrize("kind", ["gram", "vectors"])
def test_spread_of_players(power: int, kind: str) -> None:
    factors = np.array([10.0**-power, 1.0, 10.0**power])
    if kind == "gram":
        solution, plain = one(gram=GRAM * np.outer(factors, factors)), one(gram=GRAM)
    else:
        solution, plain = one(vectors=VECTORS * factors[:, None]), one(vectors=VECTORS)
    assert_status(solution, Status.SOLVED)
    assert_near(solution.alpha * factors, plain.alpha, RTOL)


@pytest.mark.parametrize("size", [pytest.param(5e-324, id="S22-least"), pytest.param(1e-310, id="S22-subnormal")])
def test_subnormal_entries(size: float) -> None:
    for gram in (np.diag([size, 1.0]), size * np.eye(2), np.array([[1.0, size], [size, 1.0]])):
        solution = one(gram=gram)
        assert_status(solution, Status.SOLVED, Status.SOLVED_INACCURATE, Status.NO_AGREEMENT)
    rows = np.array([[1.0, size], [0.0, 1.0]])
    assert_status(one(vectors=rows), Status.SOLVED)
    assert_status(one(vectors=np.array([[size, 0.0], [0.0, 1.0]])), Status.SOLVED, Status.NO_AGREEMENT)


@pytest.mark.parametrize("size", [pytest.param(1e200, id="S23-large"), pytest.param(1e-200, id="S23-small")])
def test_vectors_of_extreme_size(size: float) -> None:
    solution = one(vectors=VECTORS * size)
    assert_status(solution, Status.SOLVED)
    assert_near(solution.alpha * size, one(vectors=VECTORS).alpha, RTOL)
    mixed = one(vectors=VECTORS * np.array([[size], [1.0], [1 / size]]))
    assert_status(mixed, Status.SOLVED)
    rows = VECTORS * np.array([[size], [1.0], [1 / size]])
    assert_message(_refused(rows), "range of float64")
    exact = VECTORS @ VECTORS.T
    assert_near(ns.gram(VECTORS * 2.0**300) * 2.0**-600, exact, 2 * ULP, ULP)


def _refused(rows: np.ndarray) -> ns.InvalidProblem:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.gram(rows)
    return caught.value


# S24: many players


@pytest.mark.parametrize("n", [pytest.param(1024, id="S24-1024")])
def test_many_players(n: int) -> None:
    rows = np.random.default_rng(0).standard_normal((n, 2 * n))
    gram = rows @ rows.T
    solution = one(gram=gram)
    assert_solves(gram, np.ones(n), solution)


@pytest.mark.parametrize(
    "kind", [pytest.param("gram", id="S24-gram-limit"), pytest.param("vectors", id="S24-vectors-limit")]
)
def test_too_many_players(kind: str) -> None:
    from nashsolve.core.problem import MAX_PLAYERS

    n = MAX_PLAYERS + 1
    data = np.broadcast_to(np.float32(0.0), (n, n if kind == "gram" else 2))
    with pytest.raises(ns.InvalidProblem) as caught:
        P(**{kind: data})
    assert_message(caught.value, kind, str(n), str(MAX_PLAYERS))


# S25-S28: options


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        pytest.param({"solver": "newtn"}, ("newtn", "'newton'", "closed_form", "auto"), id="S25-solver"),
        pytest.param({"solver": "newton", "maxiter": 3}, ("maxiter", "'max_iter'", "rtol"), id="S25-option"),
        pytest.param(
            {"solver": "closed_form", "max_iter": 3}, ("max_iter", "closed_form", "rtol"), id="S25-other-option"
        ),
        pytest.param({"colour": 3}, ("colour", "max_iter"), id="S25-auto-option"),
        pytest.param({"on_failure": "ignore"}, ("ignore", "raise", "return", "face"), id="S25-on-failure"),
        pytest.param({"solver": 3}, ("3",), id="S25-type"),
    ],
)
def test_unknown_names(options: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(ns.InvalidProblem) as caught:
        ns.solve(GRAM, **options)
    assert_message(caught.value, *parts)


@pytest.mark.parametrize("rtol", [pytest.param(0.0, id="S26-zero"), pytest.param(1e-17, id="S26-below-floor")])
def test_rtol_below_the_floor(rtol: float) -> None:
    solution = ns.solve(GRAM, rtol=rtol)
    assert_status(solution, Status.SOLVED_INACCURATE)
    assert solution.limited_by == "precision" and solution.success
    assert solution.n_iter <= 15
    assert_near(solution.alpha, ns.solve(GRAM).alpha, RTOL)


@pytest.mark.parametrize("limit", [pytest.param(0, id="S27-0"), pytest.param(1, id="S27-1")])
@pytest.mark.parametrize("kind", ["zero", "disagreement"])
def test_iteration_limit(limit: int, kind: str) -> None:
    extra = {} if kind == "zero" else {"disagreement": [0.1, 0.1, 0.1], "radius": 1.0}
    problem = P(gram=GRAM * np.outer([1, 3, 9], [1, 3, 9]), weights=[1.0, 20.0, 0.1], **extra)
    solution = ns.solve(problem, max_iter=limit, on_failure="return")
    assert_status(solution, Status.MAX_ITER)
    assert not solution.success and int(solution.n_iter) <= limit
    assert np.isfinite(solution.alpha).all() and (solution.alpha > 0).all() and float(solution.gap) > 0
    with pytest.raises(ns.SolverFailed) as caught:
        ns.solve(problem, max_iter=limit)
    assert_message(caught.value, "max_iter")
    assert_bitwise(caught.value.solution.alpha, solution.alpha)
    batch = ns.solve(
        P(gram=GRAM[None] * np.outer([1, 3, 9], [1, 3, 9]), weights=[1.0, 20.0, 0.1], **extra), max_iter=limit
    )
    assert batch.status.tolist() == [Status.MAX_ITER]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param([0.0, 1.0, 1.0], id="S28-zero"),
        pytest.param([-1.0, 1.0, 1.0], id="S28-negative"),
        pytest.param([1e300, 1e300, 1e300], id="S28-huge"),
        pytest.param([1e-300, 1e300, 1.0], id="S28-spread"),
        pytest.param([5e-324, 1.0, 1.0], id="S28-subnormal"),
    ],
)
def test_bad_warm_start(start: list[float]) -> None:
    assert_same_alpha(ns.solve(GRAM, start=start), ns.solve(GRAM))
    batch = np.stack([GRAM, GRAM])
    found = ns.solve(batch, start=np.array([start, [1.0, 1.0, 1.0]]))
    assert_success(found)
    assert_bitwise(found.alpha[1], ns.solve(batch, start=np.ones((2, 3))).alpha[1])


# S29-S33: geometry


@pytest.mark.parametrize("copies", [pytest.param(c, id=f"S29-{c}") for c in (2, 3, 8)])
def test_duplicate_players(copies: int) -> None:
    rows = np.repeat(VECTORS, copies, axis=0)
    w = np.arange(1.0, 3 * copies + 1)
    for problem in (P(vectors=rows, weights=w), P(gram=rows @ rows.T, weights=w)):
        solution = ns.solve(problem)
        assert_status(solution, Status.SOLVED)
        merged = one(vectors=VECTORS, weights=w.reshape(3, copies).sum(1))
        assert_near(solution.alpha.reshape(3, copies).sum(1), merged.alpha, RTOL)
        assert_near(solution.alpha / w * w.reshape(3, copies).sum(1).repeat(copies), merged.alpha.repeat(copies), RTOL)


@pytest.mark.parametrize("rank", [pytest.param(r, id=f"S30-rank-{r}") for r in (1, 2, 3)])
@pytest.mark.parametrize("n", [4, 20])
def test_singular_but_solvable(rank: int, n: int) -> None:
    rows = np.abs(np.random.default_rng(rank).standard_normal((n, rank)))
    gram = rows @ rows.T
    for problem in (P(gram=gram), P(vectors=rows)):
        solution = ns.solve(problem)
        assert_status(solution, Status.SOLVED)
        assert_solves(gram, np.ones(n), solution)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([[1.0, 0.0], [-1.0, 0.0]], id="S31-pair"),
        pytest.param([[1.0, 0.0], [-3.0, 0.0], [0.0, 1.0]], id="S31-unequal"),
        pytest.param([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], id="S31-triangle"),
        pytest.param([[1e100, 0.0], [-1e-100, 0.0]], id="S31-scaled"),
        pytest.param([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], id="S31-tetrahedron"),
    ],
)
def test_opposed_players(rows: list[list[float]]) -> None:
    vectors = np.array(rows)
    with np.errstate(under="ignore"):
        gram = vectors @ vectors.T
    for problem in (P(vectors=vectors), P(gram=gram)):
        assert_no_agreement_certificate(ns.solve(problem, on_failure="return"), gram)
        with pytest.raises(ns.NoAgreement, match="No agreement exists"):
            ns.solve(problem)


@pytest.mark.parametrize("power", [pytest.param(p, id=f"S32-2^-{p}") for p in (50, 51, 52)])
def test_nearly_opposed_within_noise(power: int) -> None:
    rho = -1 + 2.0**-power
    solution = one(gram=np.array([[1.0, rho], [rho, 1.0]]))
    assert_status(solution, Status.AMBIGUOUS)
    assert_near(solution.certificate, [0.5, 0.5], RTOL)
    assert 0 <= float(solution.margin) <= 10 * float(solution.problem.noise) ** 0.5
    assert not solution.success
    with pytest.raises(ns.SolverFailed, match="AMBIGUOUS"):
        ns.solve(np.array([[1.0, rho], [rho, 1.0]]))


@pytest.mark.parametrize("power", [pytest.param(p, id=f"S33-1e{p}") for p in (6, 12)])
def test_alpha_over_many_decades(power: int) -> None:
    alpha = np.logspace(-power, power, 9)
    rows = np.abs(np.random.default_rng(power).integers(1, 64, (9, 3)) / 64.0)
    factors = 1 / alpha
    rows = rows * (2.0 ** np.round(np.log2(factors)))[:, None]
    solution = one(gram=rows @ rows.T)
    assert_status(solution, Status.SOLVED)
    from benchmarks.truth import true_alpha

    exact = true_alpha(rows)
    assert np.log10(exact.max() / exact.min()) > 1.5 * power
    assert_within_bound(solution, exact)


# S34: no warning escapes


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"gram": GRAM}, id="S34-plain"),
        pytest.param({"gram": GRAM, "weights": [1e-300, 1.0, 1e300]}, id="S34-weights"),
        pytest.param({"gram": OPPOSED}, id="S34-opposed"),
        pytest.param({"gram": np.zeros((3, 3))}, id="S34-zero"),
        pytest.param({"gram": np.diag([1e-300, 1.0, 1e300])}, id="S34-spread"),
        pytest.param({"vectors": VECTORS * 1e200}, id="S34-large"),
        pytest.param({"vectors": VECTORS * 1e-200}, id="S34-small"),
        pytest.param({"gram": np.stack([GRAM, OPPOSED])}, id="S34-batch"),
        pytest.param({"gram": GRAM, "disagreement": [0.1, 0.2, 0.1], "radius": 1.0}, id="S34-disagreement"),
        pytest.param({"gram": OPPOSED, "disagreement": [-0.1, -0.2, -0.1], "radius": 9.0}, id="S34-inactive"),
        pytest.param({"gram": GRAM, "disagreement": [5.0, 5.0, 5.0], "radius": 1.0}, id="S34-too-high"),
    ],
)
def test_no_warning_leaks(arguments: dict) -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        solution = one(**arguments)
        repr(solution)
        solution.to_dict()
        ns.verify(solution.problem, np.ones(3))
        kept = np.geterr()
    assert set(kept.values()) == {"raise"}
    assert solution.status is not None
