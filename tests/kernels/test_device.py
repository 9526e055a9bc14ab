"""The engine `cupy` with its kernels run on the host: the same answers and statuses as `newton`, and no waiting."""

from __future__ import annotations

import pickle
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nashsolve as ns
from benchmarks import families
from nashsolve import on_device
from nashsolve.backends import catalog, cupy_batched
from nashsolve.core import arrays
from nashsolve.core.errors import InvalidProblem, MissingExtra, NoAgreement, SolverFailed
from nashsolve.core.status import Status
from nashsolve.kernels import cuda
from tests.kernels import fake_cupy
from tests.kernels.conftest import forget
from tests.kernels.fake_cupy import DeviceArray, no_sync, plain
from tests.tolerances import tolerance

FIELDS = (
    "alpha",
    "coefficients",
    "utilities",
    "gains",
    "error_bound",
    "certificate",
    "gap",
    "margin",
    "ball_multiplier",
)


def grams(n: int, count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng([n, seed]).standard_normal((count, n, 2 * n + 1))
    found = rows @ rows.swapaxes(-1, -2)
    return 0.5 * found + 0.5 * found.swapaxes(-1, -2)


def gram_of(rows: Any) -> Any:
    found = rows @ rows.T
    return 0.5 * found + 0.5 * found.T


def assert_agree(found: Any, wanted: Any) -> None:
    """The same statuses, and alphas within both bounds."""
    codes = plain(found.status)
    assert codes.tolist() == np.asarray(wanted.status).tolist()
    good = codes <= Status.SOLVED_INACCURATE
    bound = plain(found.error_bound)[good] + wanted.error_bound[good]
    assert (np.abs(plain(found.alpha)[good] / wanted.alpha[good] - 1) <= bound + 1e-15).all()
    assert np.isnan(plain(found.alpha)[(codes == Status.NO_AGREEMENT) | (codes == Status.INVALID_INPUT)]).all()


def test_assert_agree_fails(cupy: Any) -> None:
    batch = grams(3, 2)
    found, wanted = ns.solve(DeviceArray(batch)), ns.solve(batch, solver="newton")
    assert_agree(found, wanted)
    with pytest.raises(AssertionError):
        assert_agree(found, ns.solve(batch * 1.001, solver="newton"))
    with pytest.raises(AssertionError):
        assert_agree(found, ns.solve(-batch, solver="newton"))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 13, 16, 17, 32, 33, 64])
def test_families(cupy: Any, n: int) -> None:
    """Every family of instances, ordinary to adversarial, with and without agreement."""
    batch = []
    with_none = families.INFEASIBLE if n > 1 else {}
    for make in (*families.FEASIBLE.values(), *with_none.values()):
        for seed in range(2):
            with np.errstate(invalid="ignore"):
                rows = make(n, seed)
            if np.isfinite(rows).all():  # some families are none with one player
                batch.append(gram_of(rows))
    batch = np.stack(batch)
    found = ns.solve(DeviceArray(batch))
    assert found.solver == "cupy"
    assert_agree(found, ns.solve(batch, solver="newton"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(n=st.integers(1, 64), count=st.integers(1, 9), seed=st.integers(0, 2**20), data=st.data())
def test_agrees_with_newton(cupy: Any, n: int, count: int, seed: int, data: Any) -> None:
    """Weights, radius and start of the batch or of all its items, scales apart, few dimensions or many."""
    rng = np.random.default_rng(seed)
    p = data.draw(st.sampled_from([max(1, n // 2), n, 2 * n + 1]))
    rows = rng.standard_normal((count, n, p)) * 10.0 ** rng.uniform(-6, 6, (count, n, 1))
    gram = rows @ rows.swapaxes(-1, -2)
    gram = 0.5 * gram + 0.5 * gram.swapaxes(-1, -2)
    weights = data.draw(st.sampled_from([None, rng.uniform(0.1, 9, n), rng.uniform(0.1, 9, (count, n))]))
    radius = data.draw(st.sampled_from([None, 2.5, rng.uniform(0.1, 9, count)]))
    start = data.draw(st.sampled_from([None, rng.uniform(0.1, 9, (count, n)), -np.ones((count, n))]))

    def move(value: Any) -> Any:
        return DeviceArray(value) if isinstance(value, np.ndarray) else value

    problem = ns.BargainingProblem(gram=move(gram), weights=move(weights), radius=move(radius))
    with no_sync():
        found = ns.solve(problem, start=move(start))
    wanted = ns.solve(ns.BargainingProblem(gram=gram, weights=weights, radius=radius), solver="newton")
    codes, others = plain(found.status), wanted.status
    differ = codes != others
    # in the band where rounding decides, one may call it ambiguous or less accurate and the other not
    assert (np.isin(codes[differ], (1, 2, 3)) | np.isin(others[differ], (1, 2, 3))).all()
    assert not ((codes <= 1) & (others == Status.NO_AGREEMENT)).any()
    assert not ((others <= 1) & (codes == Status.NO_AGREEMENT)).any()
    good = (codes <= 1) & (others <= 1)
    bound = plain(found.error_bound)[good] + wanted.error_bound[good]
    assert (np.abs(plain(found.alpha)[good] / wanted.alpha[good] - 1) <= bound + 1e-15).all()
    if p > n and (codes > 0).any():
        assert others[codes > 0].all()


@pytest.mark.parametrize("n", [2, 8, 20])
def test_numbers_are_those_of_the_core(cupy: Any, n: int) -> None:
    batch = grams(n, 3)
    weights = np.random.default_rng(n).uniform(0.5, 2, (3, n))
    found = ns.solve(ns.BargainingProblem(gram=DeviceArray(batch), weights=DeviceArray(weights), radius=3.0))
    problem = ns.BargainingProblem(gram=batch, weights=weights, radius=3.0)
    wanted = ns.verify(problem, plain(found.alpha))
    for name in ("utilities", "gains", "coefficients", "margin", "ball_multiplier", "log_nash_product"):
        assert np.allclose(plain(getattr(found, name)), getattr(wanted, name), rtol=1e-12, atol=0)
    assert (plain(found.error_bound) <= 2 * wanted.error_bound + 1e-15).all()


BAD = {
    "nan": lambda g: g.__setitem__((0, 1), np.nan),
    "a length that is nan": lambda g: g.__setitem__((1, 1), np.nan),
    "inf": lambda g: g.__setitem__((1, 1), np.inf),
    "negative diagonal": lambda g: g.__setitem__((1, 1), -1.0),
    "asymmetric": lambda g: g.__setitem__((0, 1), g[0, 1] + 1e-3),
    "indefinite": lambda g: g.__setitem__((slice(0, 2), slice(0, 2)), [[1.0, 2.0], [2.0, 1.0]]),
    "indefinite as a whole": lambda g: g.__isub__(0.9 * np.linalg.eigvalsh(g)[1] * np.eye(len(g))),
    "product without length": lambda g: g.__setitem__((1, 1), 0.0),
}


@pytest.mark.parametrize("n", [3, 10, 20, 40])
@pytest.mark.parametrize("what", BAD)
def test_bad_items_are_flagged_and_change_nothing_else(cupy: Any, what: str, n: int) -> None:
    batch = grams(n, 5)
    alone = plain(ns.solve(DeviceArray(batch.copy())).alpha)
    BAD[what](batch[2])
    with no_sync():
        found = ns.solve(DeviceArray(batch))
    assert plain(found.status).tolist() == [0, 0, int(Status.INVALID_INPUT), 0, 0]
    assert ns.solve(batch, solver="newton").status.tolist() == plain(found.status).tolist()
    keep = [0, 1, 3, 4]
    assert np.array_equal(plain(found.alpha)[keep], alone[keep])
    assert all(np.isnan(plain(getattr(found, name))[2]).all() for name in FIELDS)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["weights", "radius", "disagreement"])
def test_bad_weights_radii_and_disagreement(cupy: Any, name: str, bad: float) -> None:
    value = np.ones(4) if name == "radius" else np.ones((4, 3)) * (-0.1 if name == "disagreement" else 1)
    value[1] = bad
    given = {"radius": 1.0, name: value} if name == "disagreement" else {name: value}
    with no_sync():
        found = ns.solve(ns.BargainingProblem(gram=DeviceArray(grams(3, 4)), **to_device(given)))
    wanted = ns.solve(ns.BargainingProblem(gram=grams(3, 4), **given), solver="newton")
    assert plain(found.status).tolist() == wanted.status.tolist()
    assert plain(found.status)[1] == Status.INVALID_INPUT or (name == "disagreement" and np.isfinite(bad))


@pytest.mark.parametrize("n", [1, 4, 12])
def test_players_of_length_zero_block(cupy: Any, n: int) -> None:
    batch = grams(n, 2)
    batch[1, 0] = batch[1, :, 0] = 0
    found = ns.solve(DeviceArray(batch))
    wanted = ns.solve(batch, solver="newton")
    assert plain(found.status).tolist() == [int(Status.SOLVED), int(Status.NO_AGREEMENT)] == wanted.status.tolist()
    assert np.array_equal(plain(found.certificate)[1], np.eye(n)[0])
    assert plain(found.margin)[1] == 0


def test_a_proof_of_no_agreement_holds(cupy: Any) -> None:
    rows = families.INFEASIBLE["f_opp"](12, 0)
    gram = gram_of(rows)
    y = plain(ns.solve(DeviceArray(gram[None])).certificate)[0]
    assert (y >= 0).all() and abs(y.sum() - 1) < 1e-12
    assert np.linalg.norm(y @ rows) <= 1e-8 * (y @ np.linalg.norm(rows, axis=1))


def test_one_problem_waits_when_it_is_read(cupy: Any) -> None:
    gram = grams(4, 1)[0]
    found = ns.solve(DeviceArray(gram))
    assert found.status is Status.SOLVED and found.solver == "cupy" and isinstance(found.n_iter, int)
    assert found.message == Status.SOLVED.advice and found.limited_by == ""
    with no_sync():
        later = ns.solve(DeviceArray(gram), on_failure="return")
        assert np.array_equal(plain(later.alpha), plain(found.alpha))
        for name in ("status", "n_iter", "limited_by", "success"):
            with pytest.raises(fake_cupy.Sync):
                getattr(later, name)
        with pytest.raises(fake_cupy.Sync):
            ns.solve(DeviceArray(gram))
    assert later.success and later.n_iter == found.n_iter and later.message == found.message
    with pytest.raises(AttributeError, match="no_such"):
        _ = later.no_such


def test_one_problem_without_an_answer(cupy: Any) -> None:
    opposed = DeviceArray(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    with pytest.raises(NoAgreement, match="player 0"):
        ns.solve(opposed)
    assert ns.solve(opposed, on_failure="return").status is Status.NO_AGREEMENT
    bad = DeviceArray(np.array([[1.0, np.nan], [np.nan, 1.0]]))
    with pytest.raises(InvalidProblem, match=r"gram\[0, 1\] is nan"):
        ns.solve(bad)
    found = ns.solve(bad, on_failure="return")
    for _ in range(2):
        with pytest.raises(InvalidProblem, match=r"gram\[0, 1\] is nan"):
            _ = found.status


def test_raise_reads_the_statuses_of_a_batch(cupy: Any) -> None:
    batch = grams(2, 2)
    assert ns.solve(DeviceArray(batch), on_failure="raise").success
    batch[1] = [[1.0, -1.0], [-1.0, 1.0]]
    with pytest.raises(SolverFailed, match="2 problems: 1 SOLVED, 1 NO_AGREEMENT"):
        ns.solve(DeviceArray(batch), on_failure="raise")
    assert not ns.solve(DeviceArray(batch)).success


def test_float32(cupy: Any) -> None:
    batch = grams(5, 3).astype(np.float32)
    with no_sync():
        found = ns.solve(DeviceArray(batch))
    wanted = ns.solve(batch, solver="newton")
    assert found.alpha.dtype == found.gains.dtype == found.ball_multiplier.dtype == np.float32
    assert found.error_bound.dtype == np.float64
    assert_agree(found, wanted)
    dup = np.ones((1, 3, 3), dtype=np.float32) * (1 + 6e-8 * np.tri(3, dtype=np.float32))
    assert plain(ns.solve(DeviceArray(dup)).status).tolist() == ns.solve(dup, solver="newton").status.tolist()


def test_options_have_an_effect(cupy: Any) -> None:
    batch = gram_of(families.FEASIBLE["d1e-3"](9, 0))[None]
    assert plain(ns.solve(DeviceArray(batch), max_iter=1).status).tolist() == [int(Status.MAX_ITER)]
    strict, loose = (ns.solve(DeviceArray(batch), solver="cupy", rtol=r) for r in (1e-15, 1e-6))
    assert plain(strict.status).tolist() == [1] and plain(loose.status).tolist() == [0]
    with pytest.raises(InvalidProblem, match="max_iter is -1"):
        ns.solve(DeviceArray(batch), solver="cupy", max_iter=-1)
    with pytest.raises(InvalidProblem, match="threads"):
        ns.solve(DeviceArray(batch), solver="cupy", threads=2)


def test_a_warm_start_saves_iterations(cupy: Any) -> None:
    batch = np.stack([gram_of(families.FEASIBLE["d1e-3"](9, s)) for s in range(3)])
    cold = ns.solve(DeviceArray(batch))
    warm = ns.solve(DeviceArray(batch * 1.0001), start=cold)
    assert (plain(warm.n_iter) < plain(cold.n_iter)).all() and warm.success


@pytest.mark.parametrize(("n", "count"), [(1, 1), (8, 17), (9, 8), (16, 9), (17, 5), (32, 4), (33, 3), (64, 2)])
def test_shape_of_the_launch(cupy: Any, n: int, count: int) -> None:
    ns.solve(DeviceArray(grams(n, count)))
    (reader, entries, threads, none), (solver, blocks, block, shared) = cupy.log().launches
    width = cuda.variant(n, 232448).width
    assert (reader, threads, none) == ("nash_read", 256, 0) and (entries - 1) * 256 < count * n * n <= entries * 256
    assert solver == f"nash_solve_{width}" and n <= width
    tiles = block // width
    assert (blocks - 1) * tiles < count <= blocks * tiles and shared == tiles * cuda.bytes_of_tile(n, width)


def test_small_devices_get_small_blocks() -> None:
    """Every launch fits in 48 KiB up to 32 players, however little more there is."""
    for n in range(1, 33):
        kind = cuda.variant(n, 48 * 1024)
        shape = cuda.launch(kind, n, 1000, 48 * 1024, 100)
        tiles = shape.threads // kind.width
        assert kind.width < cuda.BLOCK
        assert tiles >= 1 and shape.shared <= 48 * 1024 and shape.blocks * tiles >= 1000
    assert cuda.launch(cuda.Variant(8), 8, 1000, 232448, 100).threads == 128


@pytest.mark.parametrize("limit", [48 * 1024, 99 * 1024, 232448])
@pytest.mark.parametrize("n", [40, 64, 65, 200, 1024])
def test_what_shared_memory_cannot_hold_goes_to_blocks_in_turn(limit: int, n: int) -> None:
    for placed in (False, True):
        kind = cuda.variant(n, limit, placed)
        shape = cuda.launch(kind, n, 10_000, limit, 132)
        assert shape.shared <= limit
        if cuda.bytes_of_tile(n, 64, placed) > limit or n > 64:
            assert kind.width == cuda.BLOCK == shape.threads and shape.blocks == 264
            assert n <= shape.held <= 16 * n and shape.shared == 8 * (cuda.BLOCK + shape.held)
        else:
            assert kind.width == 64 and shape.blocks == 10_000 and shape.held == 0
    assert cuda.launch(cuda.Variant(cuda.BLOCK), n, 3, limit, 132).blocks == 3


def test_too_little_shared_memory_moves_to_blocks(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bits: the panel changes none, nor does the number of threads but in the order of sums."""
    batch = grams(60, 3)
    wide = ns.solve(DeviceArray(batch))
    monkeypatch.setitem(fake_cupy.Device.attributes, "MaxSharedMemoryPerBlockOptin", 49152)
    forget()
    narrow = ns.solve(DeviceArray(batch))
    assert [name for name, *_ in cupy.log().launches] == ["nash_read", "nash_solve_64", "nash_read", "nash_solve_256"]
    assert_agree(narrow, ns.solve(batch, solver="newton"))
    assert np.allclose(plain(wide.alpha), plain(narrow.alpha), rtol=tolerance("float64", "sum"))


def test_views_and_batch_axes(cupy: Any) -> None:
    batch = grams(3, 12)
    wide = ns.solve(DeviceArray(batch.reshape(3, 4, 3, 3)))
    flat = ns.solve(DeviceArray(batch))
    assert wide.alpha.shape == (3, 4, 3) and wide.status.shape == (3, 4)
    assert np.array_equal(plain(wide.alpha).reshape(12, 3), plain(flat.alpha))
    every = ns.solve(DeviceArray(np.concatenate([batch, batch])[::2]))
    assert np.array_equal(plain(every.alpha)[:6], plain(flat.alpha)[::2])
    spread = ns.BargainingProblem(gram=DeviceArray(batch[0]), weights=DeviceArray(np.ones((5, 3))))
    assert np.array_equal(plain(ns.solve(spread).alpha), np.tile(plain(flat.alpha)[0], (5, 1)))


def test_inputs_are_not_written_to(cupy: Any) -> None:
    batch = grams(4, 3)
    batch[1, 0, 1] += 1e-16
    batch[2, 0] = batch[2, :, 0] = 0
    kept = batch.copy()
    ns.solve(DeviceArray(batch))
    assert np.array_equal(batch, kept)


@pytest.mark.parametrize("solver", ["auto", "cupy"])
def test_vectors_go_to_the_kernel_by_their_gram(cupy: Any, solver: str) -> None:
    rows = np.stack([families.FEASIBLE["a"](6, 0), families.FEASIBLE["c"](6, 1)])
    found = ns.solve(ns.BargainingProblem(vectors=DeviceArray(rows)), solver=solver)
    assert found.solver == "cupy"
    assert_agree(found, ns.solve(ns.BargainingProblem(vectors=rows), solver="newton"))


def test_what_it_does_not_take_goes_to_newton(cupy: Any) -> None:
    large = DeviceArray(np.eye(1025)[None])
    assert ns.solve(large).solver == "newton"
    with pytest.raises(InvalidProblem, match="at most 1024 players"):
        ns.solve(large, solver="cupy")
    with pytest.raises(InvalidProblem, match="CUDA device"):
        ns.solve(grams(3, 1), solver="cupy")


@pytest.mark.parametrize("n", [65, 100, 131])
def test_more_players_than_shared_memory_holds(cupy: Any, n: int) -> None:
    """More items than blocks, so that each takes some; families with and without agreement, bad items among them."""
    batch = np.stack([gram_of(make(n, 0)) for make in (*families.FEASIBLE.values(), *families.INFEASIBLE.values())])
    with no_sync():
        found = ns.solve(DeviceArray(batch))
    assert cupy.log().launches[-1][:3] == ("nash_solve_256", 4, 256) and found.solver == "cupy"
    assert_agree(found, ns.solve(batch, solver="newton"))
    batch = grams(n, 6)
    weights = np.random.default_rng(n).uniform(0.2, 5, (6, n))
    batch[1, 0, 1] = np.nan
    batch[4, 3] = batch[4, :, 3] = 0
    found = ns.solve(ns.BargainingProblem(gram=DeviceArray(batch), weights=DeviceArray(weights), radius=2.0))
    wanted = ns.solve(ns.BargainingProblem(gram=batch, weights=weights, radius=2.0), solver="newton")
    assert plain(found.status).tolist() == wanted.status.tolist() == [0, 7, 0, 0, 2, 0]
    assert_agree(found, wanted)


def placed(n: int, count: int, seed: int = 0) -> dict[str, Any]:
    """Problems whose disagreement lies below, between, near and beyond what the ball offers."""
    rng = np.random.default_rng([n, seed, 7])
    rows = rng.standard_normal((count, n, n + 2))
    towards = np.stack([np.linalg.lstsq(r, rng.uniform(0.5, 1.5, n), rcond=None)[0] for r in rows])
    offered = (rows @ towards[..., None])[..., 0] / np.linalg.norm(towards, axis=-1)[:, None]
    share = np.resize([-0.5, 0.4, 0.95, 1.0], count)
    gram = rows @ rows.swapaxes(-1, -2)
    gram = 0.5 * gram + 0.5 * gram.swapaxes(-1, -2)
    d = share[:, None] * offered
    d[3::4] = 1.1 * np.sqrt(np.einsum("kii->ki", gram[3::4]))  # more than anybody alone could have
    return {"gram": gram, "weights": rng.uniform(0.3, 3, (count, n)), "disagreement": d}


def to_device(given: dict[str, Any]) -> dict[str, Any]:
    return {name: DeviceArray(v) if isinstance(v, np.ndarray) else v for name, v in given.items()}


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 16, 20, 40, 64, 80])
def test_disagreement_points(cupy: Any, n: int) -> None:
    """Statuses and answers of newton, without waiting; what no ball of this radius offers is proved so."""
    given = placed(n, 8) | {"radius": 1.0}
    with no_sync():
        found = ns.solve(ns.BargainingProblem(**to_device(given)))
    assert found.solver == "cupy"
    problem = ns.BargainingProblem(**given)
    assert plain(found.status).tolist() == [0, 0, 0, 2] * 2
    assert_agree(found, ns.solve(problem, solver="newton"))
    for item in (3, 7):
        y = plain(found.certificate)[item]
        assert (y >= 0).all() and abs(y.sum() - 1) < tolerance("float64", "sum")
        assert np.sqrt(y @ given["gram"][item] @ y) < y @ given["disagreement"][item]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**20), wide=st.booleans(), few=st.booleans())
def test_disagreement_agrees_with_newton(cupy: Any, n: int, seed: int, wide: bool, few: bool) -> None:
    """Also with players of few dimensions, where the ball may be inactive: that alone may be left open, and is said."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((3, n, max(1, n // 2) if few else n + 1)) * 10.0 ** rng.uniform(-3, 3, (3, n, 1))
    lengths = np.linalg.norm(rows, axis=-1)
    gram = rows @ rows.swapaxes(-1, -2)
    given = {"gram": 0.5 * gram + 0.5 * gram.swapaxes(-1, -2), "radius": rng.uniform(0.5, 2, 3) if wide else 1.3}
    given["disagreement"] = (rng.uniform(-0.6, 0.1, (3, n)) * lengths) if wide else -0.2 * lengths.min(0)
    with no_sync():
        found = ns.solve(ns.BargainingProblem(**to_device(given)))
    wanted = ns.solve(ns.BargainingProblem(**given), solver="newton")
    codes, others = plain(found.status), wanted.status
    inactive = (others <= 1) & (wanted.ball_multiplier == 0)
    assert np.isin(codes[inactive], (Status.SOLVED_INACCURATE, Status.MAX_ITER, Status.NUMERICAL_ERROR)).all()
    differ = (codes != others) & ~inactive
    assert np.isin(codes[differ], (1, 3, 6)).all() and np.isin(others[differ], (1, 3, 4, 6, 0)).all()
    good = (codes <= 1) & (others <= 1)
    bound = plain(found.error_bound)[good] + wanted.error_bound[good]
    assert (np.abs(plain(found.alpha)[good] / wanted.alpha[good] - 1) <= bound + 1e-15).all()
    if not few:
        assert (codes[others == 0] <= 1).all()


def test_players_of_length_zero_at_a_disagreement(cupy: Any) -> None:
    """Their utility is zero: they block where they ask for as much, and else gain what they did not ask for."""
    given = placed(4, 3) | {"radius": 1.0}
    given["gram"][:2, 1], given["gram"][:2, :, 1] = 0, 0
    given["disagreement"][:, :] = -0.1
    given["disagreement"][1, 1] = 0.0
    found = ns.solve(ns.BargainingProblem(**to_device(given)))
    wanted = ns.solve(ns.BargainingProblem(**given), solver="newton")
    assert plain(found.status).tolist() == wanted.status.tolist() == [0, 2, 0]
    assert_agree(found, wanted)
    assert plain(found.certificate)[1].tolist() == [0, 1, 0, 0]


def test_an_inactive_ball_is_left_open_and_one_problem_goes_on(cupy: Any) -> None:
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    given = {"gram": np.stack([opposed, np.eye(2)]), "disagreement": np.array([[-1.0, -1.0]] * 2), "radius": 5.0}
    found = ns.solve(ns.BargainingProblem(**to_device(given)))
    assert plain(found.status).tolist() == [int(Status.NUMERICAL_ERROR), 0]
    one = ns.solve(ns.BargainingProblem(gram=DeviceArray(opposed), disagreement=DeviceArray(-np.ones(2)), radius=5.0))
    assert one.solver == "newton" and one.success and float(one.ball_multiplier) == 0
    with pytest.raises(SolverFailed):
        ns.solve(
            ns.BargainingProblem(gram=DeviceArray(opposed), disagreement=DeviceArray(-np.ones(2)), radius=5.0),
            solver="cupy",
        )


def test_vectors_with_a_disagreement_point(cupy: Any) -> None:
    """The array library solves: vectors know more digits than their Gram."""
    rows = np.random.default_rng(2).standard_normal((3, 5))
    given = {"vectors": rows, "disagreement": -0.2 * np.ones(3), "radius": 1.0}
    found = ns.solve(ns.BargainingProblem(**to_device(given)), solver="cupy")
    wanted = ns.solve(ns.BargainingProblem(**given), solver="newton")
    assert found.success and np.allclose(plain(found.alpha), wanted.alpha, rtol=tolerance("float64", "rtol"))


@pytest.mark.parametrize("n", [1, 5, 8, 16, 33, 64, 70])
def test_an_iteration_in_floats(cupy: Any, n: int) -> None:
    """Judged in float64: bounds hold, ordinary problems are SOLVED, opposed ones proved, what is between stays open."""
    every = {**families.FEASIBLE, **(families.INFEASIBLE if n > 1 else {})}
    names, batch = [], []
    for name, make in every.items():
        with np.errstate(invalid="ignore"):
            rows = make(n, 0)
        if np.isfinite(rows).all():
            names.append(name), batch.append(gram_of(rows))
    batch = np.stack(batch)
    with no_sync():
        found = ns.solve(DeviceArray(batch), precision="float32")
    wanted = ns.solve(batch, solver="newton")
    codes = plain(found.status)
    good = codes <= 1
    off = np.abs(plain(found.alpha)[good] / wanted.alpha[good] - 1)
    assert (off <= plain(found.error_bound)[good] + wanted.error_bound[good] + 1e-15).all()
    ordinary = [names.index(name) for name in ("a", "c", "e_dup", "e_low") if name in names]
    assert (codes[ordinary] == 0).all()
    assert plain(found.error_bound)[codes == 0].max() <= tolerance("float32", "rtol")
    assert plain(found.error_bound)[ordinary].max() > tolerance("float64", "rtol")
    assert np.isin(codes, (0, 1, 2, 3)).all()
    assert (codes[wanted.status == Status.NO_AGREEMENT] == Status.NO_AGREEMENT).all()
    assert (wanted.status[codes == Status.NO_AGREEMENT] == Status.NO_AGREEMENT).all()


def test_an_iteration_in_floats_says_what_limits_it(cupy: Any) -> None:
    near = gram_of(families.FEASIBLE["d1e-3"](6, 0))
    found = ns.solve(DeviceArray(near), precision="float32", on_failure="return")
    assert found.status in (Status.SOLVED_INACCURATE, Status.AMBIGUOUS) and found.limited_by == "precision"
    assert ns.solve(DeviceArray(near)).success
    given = placed(5, 4) | {"radius": 1.0}
    with no_sync():
        found = ns.solve(ns.BargainingProblem(**to_device(given)), precision="float32")
    wanted = ns.solve(ns.BargainingProblem(**given), solver="newton")
    assert plain(found.status).tolist() == [0, 0, 1, 2] and wanted.status.tolist() == [0, 0, 0, 2]
    bound = plain(found.error_bound)[:3] + wanted.error_bound[:3]
    assert (np.abs(plain(found.alpha)[:3] / wanted.alpha[:3] - 1) <= bound).all()
    with pytest.raises(InvalidProblem, match="precision is 'float8'"):
        ns.solve(DeviceArray(near), precision="float8")
    for solver in ("auto", "cupy"):
        one = ns.solve(
            ns.BargainingProblem(vectors=DeviceArray(families.FEASIBLE["a"](4, 0))), solver=solver, precision="float32"
        )
        assert one.success and one.solver == "cupy"


def test_nash_weights(cupy: Any) -> None:
    batch = grams(4, 3)
    assert np.array_equal(plain(ns.nash_weights(DeviceArray(batch))), plain(ns.solve(DeviceArray(batch)).alpha))


def test_a_problem_is_checked_when_asked(cupy: Any) -> None:
    batch = grams(3, 2)
    batch[1, 0, 0] = np.nan
    with no_sync():
        late = ns.BargainingProblem(gram=DeviceArray(batch), radius=2.0)
        with pytest.raises(fake_cupy.Sync):
            _ = late.invalid
    early = ns.BargainingProblem(gram=batch, radius=2.0)
    assert plain(late.invalid).tolist() == early.invalid.tolist()
    assert late.invalid_reason == early.invalid_reason
    assert np.array_equal(plain(late.unit_gram), early.unit_gram)
    with pytest.raises(AttributeError, match="no_such"):
        _ = late.no_such
    one = ns.BargainingProblem(gram=DeviceArray(batch[1]))
    for _ in range(2):
        with pytest.raises(InvalidProblem, match="nan"):
            _ = one.invalid
    with pytest.raises(InvalidProblem, match="nan"):
        pickle.dumps(one)


def test_shapes_are_checked_at_once(cupy: Any) -> None:
    with pytest.raises(InvalidProblem, match="last two axes must be equal"):
        ns.BargainingProblem(gram=DeviceArray(np.ones((2, 3))))
    with pytest.raises(InvalidProblem, match="weights has shape"):
        ns.BargainingProblem(gram=DeviceArray(np.eye(2)), weights=DeviceArray(np.ones(3)))
    with pytest.raises(InvalidProblem, match="start has shape"):
        ns.solve(DeviceArray(grams(3, 2)), start=DeviceArray(np.ones((2, 2))))


class TestPrepared:
    def test_runs_read_their_inputs_anew(self, cupy: Any) -> None:
        batch, weights = DeviceArray(grams(5, 4)), DeviceArray(np.ones((4, 5)))
        plan = on_device.Prepared(batch, weights=weights)
        plan.run()
        first, memory = plain(plan.alpha).copy(), plain(plan.alpha).ctypes.data
        plain(batch)[:] = grams(5, 4, seed=1)
        plain(weights)[:] = 2.0
        with no_sync():
            plan.run()
        wanted = ns.solve(ns.BargainingProblem(gram=plain(batch), weights=plain(weights)), solver="newton")
        assert np.allclose(plain(plan.alpha), wanted.alpha, rtol=1e-9) and not np.allclose(plain(plan.alpha), first)
        assert plain(plan.alpha).ctypes.data == memory and plan.solution.success
        assert plain(plan.status).tolist() == [0] * 4

    def test_allocates_nothing(self, cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = on_device.Prepared(DeviceArray(grams(5, 4)), radius=2.0)
        for name in ("empty", "ascontiguousarray", "from_dlpack"):
            monkeypatch.setattr(fake_cupy, name, lambda *a, **k: pytest.fail("memory was asked for"))
        plan.run()
        assert plan.solution.success

    def test_refuses_what_it_would_have_to_copy(self, cupy: Any) -> None:
        batch = grams(3, 4)
        with pytest.raises(InvalidProblem, match="gram must be float64 and contiguous"):
            on_device.Prepared(DeviceArray(batch[::2]))
        with pytest.raises(InvalidProblem, match="gram must be float64 and contiguous"):
            on_device.Prepared(DeviceArray(batch.astype(np.float32)))
        with pytest.raises(InvalidProblem, match="weights must be an array on the device"):
            on_device.Prepared(DeviceArray(batch), weights=[1.0, 2.0, 3.0])
        with pytest.raises(InvalidProblem, match=r"gram\[None\]"):
            on_device.Prepared(DeviceArray(batch[0]))
        with pytest.raises(InvalidProblem, match="not on a CUDA device"):
            on_device.Prepared(batch)
        with pytest.raises(InvalidProblem, match="at most 1024"):
            on_device.Prepared(DeviceArray(np.eye(1025)[None]))
        d = DeviceArray(-np.ones((4, 3)))
        with pytest.raises(InvalidProblem, match="start is for zero disagreement"):
            on_device.Prepared(DeviceArray(batch), radius=1.0, disagreement=d, start=DeviceArray(np.ones((4, 3))))
        with pytest.raises(InvalidProblem, match="precision is 'half'"):
            on_device.Prepared(DeviceArray(batch), precision="half")

    def test_a_disagreement_point_and_floats(self, cupy: Any) -> None:
        given = placed(6, 4) | {"radius": 1.0}
        plans = [on_device.Prepared(**to_device(given), precision=p) for p in ("float64", "float32")]
        for plan in plans:
            plan.run()
            assert plain(plan.status).tolist() in ([0, 0, 0, 2], [0, 0, 1, 2])
        assert_agree(plans[0].solution, ns.solve(ns.BargainingProblem(**given), solver="newton"))
        assert not np.array_equal(plain(plans[0].alpha), plain(plans[1].alpha))


class TestTensors:
    def test_by_dlpack_on_the_callers_stream(self, cupy: Any, tensor: Any) -> None:
        torch = pytest.importorskip("torch")
        batch = grams(6, 4)
        problem_gram, weights = tensor(batch), tensor(np.full((4, 6), 2.0))
        with no_sync():
            found = ns.solve(ns.BargainingProblem(gram=problem_gram, weights=weights, radius=3.0))
        assert isinstance(found.alpha, torch.Tensor) and found.solver == "cupy"
        assert cupy.log().imported >= 6 and set(cupy.log().streams) == {77}
        wanted = ns.solve(ns.BargainingProblem(gram=batch, weights=np.full((4, 6), 2.0), radius=3.0), solver="newton")
        assert found.status.tolist() == [0] * 4
        assert np.allclose(np.array(found.alpha.tolist()), wanted.alpha, rtol=1e-9)

    def test_gradients(self, cupy: Any, tensor: Any) -> None:
        gram = tensor(grams(3, 2)).requires_grad_()
        found = ns.solve(gram, solver="cupy")
        found.alpha.sum().backward()
        assert bool(gram.grad.isfinite().all()) and bool((gram.grad != 0).any())

    def test_without_cupy_the_library_solves(self, tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrays, "has_cupy", lambda: False)
        found = ns.solve(tensor(grams(3, 2)))
        assert found.solver != "cupy" and found.status.tolist() == [0, 0]


def test_a_kernel_that_does_not_build_is_left_out(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: Any) -> Any:
        raise OSError("libnvrtc.so not found\nand more")

    monkeypatch.setattr(fake_cupy, "RawModule", fails)
    batch = DeviceArray(grams(3, 2))
    with pytest.warns(RuntimeWarning, match="engine 'cupy' is left out: its kernel does not build: OSError: libnvrtc"):
        assert ns.solve(batch).solver == "newton"
    with pytest.raises(InvalidProblem, match="does not build: OSError"):
        ns.solve(batch, solver="cupy")


def test_without_cupy_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert catalog.missing("cupy") == "cupy"
    with pytest.raises(
        MissingExtra, match=r"solver='cupy'.*pip install cupy-cuda13x, or cupy-cuda12x for CUDA 12"
    ) as e:
        ns.solve(grams(3, 1), solver="cupy")
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)


def test_doctor_tests_it_where_it_lives(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = pytest.importorskip("nashsolve.cli.doctor", reason="the extra 'cli' is not installed")
    monkeypatch.setattr(doctor, "_gpu", lambda: "a device")
    found = doctor._solver("cupy")
    assert found["ok"] and "opposed players: NO_AGREEMENT" in found["says"]
    monkeypatch.setattr(doctor, "_gpu", lambda: "none found: cupy sees none")
    assert doctor._solver("cupy") == {"installed": False, "ok": False, "says": "there is no device to test it on"}


class TestTheFakeNotices:
    """What the checks above rest on."""

    def run(self, cupy: Any, change: Any) -> None:
        launch = cupy_batched.Launch(DeviceArray(grams(3, 2)), None, None, None, 0.0, 1e-14, 1e-10, 64)
        change(launch)
        launch.run()

    def test_a_missing_argument(self, cupy: Any) -> None:
        with pytest.raises(RuntimeError, match="not what the kernel takes"):
            self.run(cupy, lambda x: setattr(x, "_solve", x._solve[:-1]))

    def test_two_swapped_arguments(self, cupy: Any) -> None:
        with pytest.raises(RuntimeError, match="not what the kernel takes"):
            self.run(cupy, lambda x: setattr(x, "_solve", (*x._solve[:6], x._solve[8], x._solve[7], *x._solve[8:])))

    def test_too_little_shared_memory(self, cupy: Any) -> None:
        with pytest.raises(RuntimeError, match="outside the shared memory"):
            self.run(cupy, lambda x: setattr(x, "_shared", 64))

    def test_reads(self) -> None:
        with no_sync(), pytest.raises(fake_cupy.Sync):
            bool(DeviceArray(np.ones(1)).any())
        with warnings.catch_warnings(), pytest.raises(TypeError, match="implicit"):
            np.asarray(DeviceArray(np.ones(1)))
