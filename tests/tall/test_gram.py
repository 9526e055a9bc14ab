"""gram_of_differences: within its stated error of float64, whatever form the experts have."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem, InvalidType  # noqa: E402
from nashsolve.tall import native  # noqa: E402
from tests.tall.conftest import DTYPES, draw, draw_experts, relative_error, stacked  # noqa: E402

SHAPES = [(67, 130), (131,), (3, 5, 7)]


METHODS = [
    "torch",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(native.library()[0] is None, reason=native.library()[1] or "it is there")
    ),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("products", ["float32", "float64"])
@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_within_the_stated_bound(dtype, with_base, products, method):
    experts, base = draw_experts(6, SHAPES, dtype)
    base = base if with_base else None
    found = ns.gram_of_differences(experts, base, products=products, method=method)
    exact = stacked(experts, base)
    assert found.gram.dtype == torch.float64
    assert relative_error(found.gram, exact @ exact.T) <= found.gram_error
    assert torch.equal(found.gram, found.gram.T)
    assert found.gram_error <= (2e-5 if products != "float64" and dtype != torch.float64 else 1e-11)


def test_products_change_the_error():
    experts, base = draw_experts(6, SHAPES)
    exact = stacked(experts, base) @ stacked(experts, base).T
    coarse = ns.gram_of_differences(experts, base, products="float32")
    fine = ns.gram_of_differences(experts, base, products="float64")
    assert relative_error(fine.gram, exact) < 1e-14 < 1e-10 < relative_error(coarse.gram, exact)
    assert fine.gram_error < 1e-6 * coarse.gram_error


@pytest.mark.parametrize("near", [1e-2, 1e-4])
def test_near_experts_lose_nothing(near):
    """Subtracting Grams instead of experts would leave no digit at 1e-4."""
    experts, base = draw_experts(4, SHAPES, near=near)
    found = ns.gram_of_differences(experts, base)
    assert relative_error(found.gram, stacked(experts, base) @ stacked(experts, base).T) <= found.gram_error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_equal_entries_stay_within_the_bound(value, method):
    """A signed step makes all squares equal, so every rounding of a long sum goes the same way."""
    signs = torch.sign(draw((5, 400_001), 3))
    experts = [value * s for s in signs]
    exact = stacked([[e] for e in experts], None)
    found = ns.gram_of_differences(experts, method=method)
    assert relative_error(found.gram, exact @ exact.T) <= found.gram_error


def test_long_sums_do_not_drift():
    """One float32 sum of this length would be off by more than the bound."""
    x = torch.full((1, 2_000_000), 0.1)
    found = ns.gram_of_differences(list(x))
    exact = float(x[0, 0].double() ** 2 * x.shape[1])
    assert abs(float(found.gram[0, 0]) / exact - 1) <= found.gram_error
    naive = np.cumsum(np.square(x[0].numpy()))[-1]
    assert abs(float(naive) / exact - 1) > found.gram_error


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 11, 13])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 511, 512, 513, 1025])
def test_compiled_tiles_and_tails(n, length):
    """Around the tile of the kernel, its vectors and its blocks."""
    if native.library()[0] is None:
        pytest.skip(native.library()[1])
    rows, base = draw((n, length), n), draw((length,), 5000 + length)
    found = ns.gram_of_differences(rows, base, method="compiled")
    exact = stacked([[r] for r in rows], [base])
    assert relative_error(found.gram, exact @ exact.T) <= found.gram_error


def test_bits_do_not_depend_on_the_threads():
    rows = draw((3, 600_000), 2)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ns.gram_of_differences(rows).gram)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found) or native.library()[0] is None


def test_a_failing_kernel_is_said_and_torch_goes_on(monkeypatch):
    rows = draw((3, 50), 2)
    wanted = ns.gram_of_differences(rows, method="torch")
    monkeypatch.setattr(native, "why_not", lambda read: None)
    monkeypatch.setattr(native, "gram_compiled", lambda read, wide: 1 / 0)
    with pytest.warns(RuntimeWarning, match="compiled kernel failed .ZeroDivisionError"):
        found = ns.gram_of_differences(rows)
    assert torch.equal(found.gram, wanted.gram)


def test_short_memory_halves_the_blocks(monkeypatch):
    rows, calls, bmm = draw((3, 5000), 2), [], torch.bmm
    wanted = ns.gram_of_differences(rows, method="torch")

    def stingy(a, b):
        calls.append(len(a))
        if len(a) > 4:
            raise torch.OutOfMemoryError("as if there were none")
        return bmm(a, b)

    monkeypatch.setattr(torch, "bmm", stingy)
    assert relative_error(ns.gram_of_differences(rows, method="torch").gram, wanted.gram) <= wanted.gram_error
    assert max(calls) > 4 >= min(calls)


def test_every_form_gives_the_same_bits():
    flat = draw((4, 600), 5)
    base = draw((600,), 6)
    one = ns.gram_of_differences(list(flat), base)
    for experts, below in (
        (flat, base),
        ([[e] for e in flat], [base]),
        (tuple(e.reshape(20, 30) for e in flat), base.reshape(20, 30)),
        ([e.reshape(20, 30).T for e in flat], base.reshape(20, 30).T),
        (flat.numpy(), base.numpy()),
        ([torch.nn.Parameter(e) for e in flat], torch.nn.Parameter(base)),
    ):
        again = ns.gram_of_differences(experts, below)
        assert np.array_equal(np.asarray(again.gram), one.gram.numpy())
    assert isinstance(ns.gram_of_differences(flat.numpy()).gram, np.ndarray)


def test_strided_experts_are_read_right():
    wide = draw((3, 40, 60), 8)
    experts = [w[:, ::2] for w in wide]
    base = wide[0].T.contiguous().T[:, 1::2]
    found = ns.gram_of_differences(experts, base)
    exact = stacked([[e] for e in experts], [base])
    assert relative_error(found.gram, exact @ exact.T) <= found.gram_error


def test_base_in_another_dtype():
    experts, base = draw_experts(3, [(500,)], torch.bfloat16)
    base = [b.double() + 1e-9 for b in base]
    found = ns.gram_of_differences(experts, base)
    assert relative_error(found.gram, stacked(experts, base) @ stacked(experts, base).T) <= found.gram_error < 1e-12


def test_numpy_bfloat16_and_read_only():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = draw((3, 100), 9).numpy().astype(ml_dtypes.bfloat16)
    rows.setflags(write=False)
    found = ns.gram_of_differences(rows)
    wanted = rows.astype(np.float64) @ rows.astype(np.float64).T
    assert relative_error(torch.from_numpy(found.gram), torch.from_numpy(wanted)) <= found.gram_error


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_sizes_beyond_float32_squares(size):
    rows = draw((3, 300), 10, size=size)
    found = ns.gram_of_differences(list(rows))
    assert relative_error(found.gram, rows.double() @ rows.double().T) <= found.gram_error < 1e-11


def test_empty_and_zero_and_nan():
    assert torch.equal(ns.gram_of_differences([torch.zeros(0), torch.zeros(0)]).gram, torch.zeros(2, 2).double())
    same = draw((70,), 1)
    assert torch.equal(ns.gram_of_differences([same, same], same).gram, torch.zeros(2, 2).double())
    broken = same.clone()
    broken[3] = torch.nan
    gram = ns.gram_of_differences([same, broken]).gram
    assert torch.isnan(gram[1]).all() and torch.isfinite(gram[0, 0])


def test_no_input_is_written_and_bits_repeat():
    experts, base = draw_experts(4, SHAPES, torch.bfloat16)
    before = [t.clone() for e in [*experts, base] for t in e]
    first = ns.gram_of_differences(experts, base)
    assert torch.equal(first.gram, ns.gram_of_differences(experts, base).gram)
    assert all(torch.equal(a, b) for a, b in zip(before, [t for e in [*experts, base] for t in e], strict=True))


def test_the_result_goes_into_a_problem():
    experts, _ = draw_experts(4, SHAPES, near=3.0)
    found = ns.gram_of_differences(experts)
    solution = ns.solve(ns.BargainingProblem(gram=found.gram, gram_error=found.gram_error))
    rows = stacked(experts, None)
    exact = ns.solve(ns.BargainingProblem(gram=rows @ rows.T))
    assert solution.success and solution.limited_by == "gram_error"
    off = (solution.alpha / exact.alpha - 1).abs()
    assert bool((off <= solution.error_bound + exact.error_bound).all())


@pytest.mark.parametrize(
    ("experts", "base", "options", "error", "words"),
    [
        ([], None, {}, InvalidProblem, "experts is empty"),
        (3.0, None, {}, InvalidType, "a sequence of experts"),
        ({"a": torch.zeros(3)}, None, {}, InvalidType, "mapping"),
        ([{"a": torch.zeros(3)}], None, {}, InvalidType, r"experts\[0\] is a mapping"),
        ([torch.zeros(3), 1.0], None, {}, InvalidType, r"experts\[1\]"),
        ([[torch.zeros(3)], [torch.zeros(3)] * 2], None, {}, InvalidProblem, r"experts\[1\] has 2 tensors"),
        ([torch.zeros(3), torch.zeros(4)], None, {}, InvalidProblem, r"experts\[1\] has shape \(4,\)"),
        ([torch.zeros(3)], torch.zeros(2), {}, InvalidProblem, "base has shape"),
        ([torch.zeros(3, dtype=torch.int32)], None, {}, InvalidType, "int32"),
        ([torch.zeros(3, dtype=torch.complex64)], None, {}, InvalidType, "complex64"),
        ([torch.eye(3).to_sparse()], None, {}, InvalidType, "sparse"),
        ([np.zeros(3, dtype=object)], None, {}, InvalidType, "object"),
        ([torch.zeros(3), torch.zeros(3, device="meta")], None, {}, InvalidProblem, "meta"),
        ([torch.zeros(3)], None, {"products": "tf32"}, InvalidProblem, "float32, float64"),
        ([torch.zeros(3)], None, {"method": "cuda"}, InvalidProblem, "auto, torch"),
        (torch.zeros(600, 2), None, {"method": "compiled"}, InvalidProblem, "at most 512|compiler"),
    ],
)
def test_bad_input_is_named(experts, base, options, error, words):
    with pytest.raises(error, match=words):
        ns.gram_of_differences(experts, base, **options)


def test_relative_error_can_fail():
    exact = torch.eye(2, dtype=torch.float64)
    assert relative_error(exact + 1e-3, exact) > 0.9e-3
