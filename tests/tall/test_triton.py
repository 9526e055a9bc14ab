"""The Triton kernels, on a GPU or in Triton's interpreter, by the contract of the plain path."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton decorates its kernels, so before they are imported

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.tall import fused  # noqa: E402
from nashsolve.tall.parts import read_experts  # noqa: E402
from tests.tall.conftest import DTYPES, draw, draw_experts, relative_error, stacked  # noqa: E402

NARROW = DTYPES[:3]


def moved(experts):
    return [[t.to(DEVICE) for t in e] for e in experts]


def _works() -> str:
    """Why the kernels cannot run here, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ns.gram_of_differences([torch.ones(8, device=DEVICE)], method="triton")
    except Exception as error:
        if DEVICE == "cpu" and "0-dimensional" in str(error):
            return "the interpreter of this triton does not run with this NumPy"
        raise
    return ""


TROUBLE = _works()
pytestmark = [
    pytest.mark.skipif(bool(TROUBLE), reason=TROUBLE or "it works"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),  # in the interpreter
]


@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    ("n", "shapes"), [(1, [(9,)]), (5, [(67, 30), (131,), (0,), (3, 5)]), (20, [(1500,)])], ids=str
)
def test_gram_within_its_bound(n, shapes, dtype, with_base):
    experts, base = draw_experts(n, shapes, dtype)
    base = base if with_base else None
    found = ns.gram_of_differences(moved(experts), None if base is None else moved([base])[0], method="triton")
    exact = stacked(experts, base)
    assert relative_error(found.gram.cpu(), exact @ exact.T) <= found.gram_error <= 3e-5
    assert torch.equal(found.gram, found.gram.T)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_typical_error_is_far_below_the_bound(dtype):
    experts, base = draw_experts(8, [(4096,)], dtype)
    found = ns.gram_of_differences(moved(experts), moved([base])[0], method="triton")
    exact = stacked(experts, base)
    assert relative_error(found.gram.cpu(), exact @ exact.T) <= 2e-6


def test_every_program_count_sees_every_column():
    """Lengths around the block and the share of a program, where tails and empty programs are."""
    for length in (1, 255, 256, 257, 1023, 1024, 1025, 4097):
        experts = draw((2, length), length)
        found = ns.gram_of_differences(list(experts.to(DEVICE)), method="triton")
        exact = stacked([[e] for e in experts], None)
        assert relative_error(found.gram.cpu(), exact @ exact.T) <= found.gram_error, length


def test_bits_repeat_and_unaligned_views_work():
    rows = draw((3, 1001), 4).to(DEVICE)
    experts = [r[1:] for r in rows]
    first = ns.gram_of_differences(experts, method="triton")
    assert torch.equal(first.gram, ns.gram_of_differences(experts, method="triton").gram)
    assert torch.equal(first.gram, ns.gram_of_differences([e.clone() for e in experts], method="triton").gram)


@pytest.mark.parametrize("momentum", [None, 0.7, 0.5 + 0.4j, (0.5, 0.1, 0.2, 0.3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combine_is_the_plain_one(dtype, momentum):
    experts, base = draw_experts(5, [(40, 30), (77,)], dtype, near=0.3)
    experts, base = moved(experts), moved([base])[0]
    c = draw((5,), 3, torch.float64).to(DEVICE)
    step = 0.4 - 0.2j if isinstance(momentum, complex) else 0.4
    states = {"triton": None, "torch": None}
    for _ in range(3):
        found = {
            m: ns.combine(base, experts, c, step=step, momentum=momentum, buffers=states[m], method=m) for m in states
        }
        points = {m: found[m] if momentum is None else found[m].point for m in states}
        for a, b in zip(points["triton"], points["torch"], strict=True):
            assert torch.allclose(a, b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
        if momentum is not None:
            states = {m: found[m].buffers for m in states}
            for a, b in zip(states["triton"], states["torch"], strict=True):
                assert all(torch.allclose(x, y, rtol=1e-5, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_combine_without_base_and_in_place():
    experts = draw((4, 3000), 6).to(DEVICE)
    c = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).to(DEVICE)
    assert torch.allclose(ns.combine(None, experts, c, method="triton"), (c.float() @ experts), atol=1e-6)
    base = experts[0].clone()
    wanted = ns.combine(base, experts, c)
    assert ns.combine(base, experts, c, out=base, method="triton") is base
    assert torch.allclose(base, wanted, atol=1e-6)


def test_what_it_cannot_take_is_said():
    wide = [torch.zeros(5, dtype=torch.float64, device=DEVICE)]
    with pytest.raises(InvalidProblem, match="products are float32"):
        ns.gram_of_differences(wide, method="triton")
    mixed = [torch.zeros(5, device=DEVICE), torch.zeros(5, device=DEVICE).half()]
    for call in (ns.gram_of_differences, lambda e, **o: ns.combine(None, e, [1.0, 1.0], **o)):
        with pytest.raises(InvalidProblem, match="differ in dtype"):
            call(mixed, method="triton")
    many = read_experts(torch.zeros(129, 2, device=DEVICE), None)
    assert "at most 128" in str(fused.why_not(many))
