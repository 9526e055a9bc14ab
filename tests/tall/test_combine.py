"""combine: base plus domain vectors and momentum against the formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem, InvalidType  # noqa: E402
from nashsolve.tall import native  # noqa: E402
from tests.tall.conftest import DTYPES, draw, draw_experts, stacked  # noqa: E402

SHAPES = [(67, 300), (131,), (3, 5, 7)]
UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
C = torch.tensor([0.3, 0.5, -0.2, 1.1], dtype=torch.float64)


def flat(tensors):
    return torch.cat([t.double().ravel() for t in tensors])


def quaternion_product(a, b):
    """Hamilton's product of quaternions with array components."""
    a0, a1, a2, a3 = a
    b0, b1, b2, b3 = b
    return (
        a0 * b0 - a1 * b1 - a2 * b2 - a3 * b3,
        a0 * b1 + a1 * b0 + a2 * b3 - a3 * b2,
        a0 * b2 - a1 * b3 + a2 * b0 + a3 * b1,
        a0 * b3 + a1 * b2 - a2 * b1 + a3 * b0,
    )


METHODS = [
    "torch",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(native.library()[0] is None, reason=native.library()[1] or "it is there")
    ),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [1.0, 0.25])
@pytest.mark.parametrize("n", [4, 16, 17], ids=str)  # the compiled kernel has another path for few floats
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_formula(dtype, n, step, method):
    experts, base = draw_experts(n, SHAPES, dtype, near=0.3)
    c = draw(n, 5, torch.float64)
    out = ns.combine(base, experts, c, step=step, method=method)
    exact = flat(base) + step * c @ stacked(experts, base)
    assert [o.dtype for o in out] == [dtype] * 3 and [o.shape for o in out] == [b.shape for b in base]
    narrow = torch.float64 if dtype == torch.float64 else torch.float32
    allowed = UNIT[dtype] * exact.abs() + (n + 8) * UNIT[narrow] * (
        c.abs() @ stacked(experts, base).abs() + flat(base).abs()
    )
    assert bool(((flat(out) - exact).abs() <= allowed).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("momentum", [0.7, 0.6 + 0.5j, (0.5, 0.3, -0.2, 0.4)], ids=str)
def test_momentum_runs_the_recurrence(momentum, method):
    """Five steps of mu' = beta mu + Delta, x' = x + Re(gamma mu') in Hamilton's numbers themselves."""
    experts, base = draw_experts(4, SHAPES, torch.float64, near=0.3)
    gamma = 0.4 - 0.3j if isinstance(momentum, complex) else 0.4
    q = momentum if isinstance(momentum, tuple) else (complex(momentum).real, complex(momentum).imag, 0.0, 0.0)
    mu = (0.0, 0.0, 0.0, 0.0)
    x, state = base, None
    exact = flat(base)
    for k in range(5):
        delta = C @ (torch.stack([flat(e) for e in experts]) - exact)
        rotated = quaternion_product(q, mu)
        mu = (rotated[0] + delta, *rotated[1:])
        moved = complex(gamma).real * mu[0] - complex(gamma).imag * mu[1]
        exact = exact + moved
        x, state = ns.combine(x, experts, C, step=gamma, momentum=momentum, buffers=state, method=method)
        assert len(state) == (1 if isinstance(momentum, float) else 2), k
    assert torch.allclose(flat(x), exact, rtol=1e-12, atol=1e-12)
    assert torch.allclose(flat(state[0]), mu[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_results_are_rounded_as_torch_rounds(dtype):
    """Ties, overflow, subnormal numbers and NaN, through every method."""
    x = torch.tensor([0.0, 1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-12, 3e38, 65519.0, 65520.0, 3e-8, 6e-6, 1e-40, -2.5])
    x = torch.cat([x, torch.tensor([torch.nan, torch.inf]), draw((1000,), 1), draw((100,), 2, size=1e-5)])
    for method in ("torch", "auto"):
        out = torch.empty_like(x, dtype=dtype)
        ns.combine(None, [x], [1.0], out=out, method=method)
        assert torch.equal(torch.nan_to_num(out, 7.0), torch.nan_to_num(x.to(dtype), 7.0)), method


def test_quaternion_is_its_complex_twin():
    experts, base = draw_experts(4, SHAPES)
    twin = complex(0.5, math.hypot(0.3, 0.2, 0.4))
    one, other = None, None
    x = y = base
    for _ in range(3):
        x, one = ns.combine(x, experts, C, momentum=(0.5, 0.3, -0.2, 0.4), buffers=one)
        y, other = ns.combine(y, experts, C, momentum=twin, buffers=other)
    assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))


def test_results_go_where_they_are_told():
    experts, base = draw_experts(4, SHAPES, torch.bfloat16)
    x, state = ns.combine(base, experts, C, momentum=0.5j)
    wanted = ns.combine(x, experts, C, momentum=0.5j, buffers=state)
    kept = [t.clone() for t in base]
    again = ns.combine(x, experts, C, momentum=0.5j, buffers=state, out=x, buffers_out=state)
    assert again.point is x and again.buffers[1] is state[1]
    for a, b in zip([*x, *state[0], *state[1]], [*wanted.point, *wanted.buffers[0], *wanted.buffers[1]], strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(kept, base, strict=True))


def test_strided_output_is_filled():
    experts, base = draw((4, 12, 10), 1), draw((12, 10), 2)
    out = torch.zeros(24, 10)[::2]
    ns.combine(base, experts, C, out=out)
    assert torch.equal(out, ns.combine(base, experts, C))
    column = torch.zeros(12, 20)[:, ::2]
    ns.combine(base, experts, C, out=column)
    assert torch.equal(column, out)
    assert torch.equal(ns.combine(base.T, [e.T for e in experts], C), out.T)


def test_without_base_and_in_numpy():
    experts = draw((4, 500), 3, torch.float64)
    assert torch.allclose(ns.combine(None, experts, C), C @ experts, rtol=1e-14, atol=1e-14)
    found = ns.combine(None, experts.numpy(), C.numpy())
    assert isinstance(found, np.ndarray) and np.array_equal(found, ns.combine(None, experts, C).numpy())


def test_coefficients_in_any_form():
    experts, base = draw_experts(4, SHAPES)
    one = ns.combine(base, experts, C)
    for c in (C.tolist(), tuple(C.tolist()), C.numpy(), torch.nn.Parameter(C)):
        assert all(torch.equal(a, b) for a, b in zip(one, ns.combine(base, experts, c), strict=True))


def test_alpha_of_a_solve_gives_its_point():
    experts, base = draw_experts(4, SHAPES, near=0.5)
    gram = ns.gram_of_differences(experts, base, products="float64")
    solution = ns.solve(ns.BargainingProblem(gram=gram.gram))
    out = ns.combine(base, experts, solution.coefficients)
    gains = stacked(experts, base) @ (flat(out) - flat(base))
    assert torch.allclose(gains, 1 / solution.alpha, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"coefficients": [1.0, 2.0]}, InvalidProblem, r"coefficients have shape \(2,\) for 4 experts"),
        ({"coefficients": "abcd"}, InvalidType, "4 real numbers"),
        ({"momentum": "heavy"}, InvalidType, "momentum is 'heavy'"),
        ({"momentum": True}, InvalidType, "momentum is True"),
        ({"momentum": float("nan")}, InvalidProblem, "momentum is nan"),
        ({"momentum": (1.0, 2.0)}, InvalidProblem, "four real numbers"),
        ({"step": 1j}, InvalidProblem, "unless the momentum is complex"),
        ({"step": (1.0,)}, InvalidProblem, "step is"),
        ({"buffers": [torch.zeros(9)]}, InvalidProblem, "without momentum"),
        ({"momentum": 1j, "buffers": [torch.zeros(9)]}, InvalidProblem, "2 entries"),
        ({"momentum": 0.5, "buffers": [torch.zeros(8)]}, InvalidProblem, r"buffers\[0\] has shape \(8,\)"),
        ({"momentum": 0.5, "buffers": [torch.zeros(9).half()]}, InvalidType, "float16"),
        ({"momentum": 0.5, "buffers_out": [torch.zeros(8)]}, InvalidProblem, r"buffers_out\[0\]"),
        ({"out": torch.zeros(3)}, InvalidProblem, "out has shape"),
        ({"base": torch.zeros(3)}, InvalidProblem, "base has shape"),
    ],
)
def test_bad_input_is_named(options, error, words):
    arguments = {"base": torch.zeros(9), "experts": draw((4, 9), 4), "coefficients": C} | options
    with pytest.raises(error, match=words):
        ns.combine(**arguments)
