"""ns.solve on tensors that require grad: derivatives against finite differences, values untouched."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

from torch.autograd.gradcheck import GradcheckError  # noqa: E402

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.core.status import Status  # noqa: E402
from tests.asserts import assert_bitwise  # noqa: E402

FIELDS = ("alpha", "coefficients", "utilities", "gains", "ball_multiplier", "log_nash_product")


def draw(*shape, seed=0, low=None):
    generator = torch.Generator().manual_seed(seed)
    if low is None:
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    return low + torch.rand(shape, generator=generator, dtype=torch.float64)


def outputs(problem):
    solution = ns.solve(problem)
    found = tuple(getattr(solution, name) for name in FIELDS)
    return found if solution.point is None else (*found, solution.point)


def check(function, *inputs):
    """First and second derivatives against finite differences."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_vectors_and_weights():
    check(lambda v, w: outputs(ns.BargainingProblem(vectors=v, weights=w)), draw(3, 5), draw(3, low=0.5, seed=1))


def test_gram():
    rows = draw(3, 5, seed=3)
    check(lambda a: outputs(ns.BargainingProblem(gram=(a + a.T) / 2)), rows @ rows.T)
    check(lambda a: outputs(ns.BargainingProblem(gram=a, symmetrize=True)), rows @ rows.T)


def test_more_players_than_dimensions():
    """The Gram has no inverse, and the derivative exists all the same."""
    check(lambda v: outputs(ns.BargainingProblem(vectors=v)), draw(4, 2, low=0.1, seed=3))


def test_disagreement_and_radius():
    d, r = torch.tensor([0.1, -0.2, 0.05]).double(), torch.tensor(1.5).double()
    check(
        lambda v, w, d, r: outputs(ns.BargainingProblem(vectors=v, weights=w, disagreement=d, radius=r)),
        draw(3, 5),
        draw(3, low=0.5, seed=1),
        d,
        r,
    )


@pytest.mark.parametrize("form", ["diagonal", "dense"])
def test_metric(form):
    metric = draw(4, low=0.5, seed=5)
    metric = metric if form == "diagonal" else torch.diag(metric) + 0.1
    check(lambda v: outputs(ns.BargainingProblem(vectors=v, metric=metric)), draw(3, 4, seed=6))


def test_batch_with_shared_weights_and_a_mask():
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def run(v, w):
        found = outputs(ns.BargainingProblem(vectors=v, weights=w, mask=mask))
        return tuple(torch.where(mask, x, 0.0) if x.shape == mask.shape else x for x in found)

    check(run, draw(2, 3, 5, seed=2), draw(3, low=0.5, seed=1))


def test_values_are_those_without_grad():
    vectors = draw(6, 9, seed=4)
    plain = ns.solve(ns.BargainingProblem(vectors=vectors))
    tracked = ns.solve(ns.BargainingProblem(vectors=vectors.clone().requires_grad_()))
    for name in (*FIELDS, "point", "error_bound"):
        assert_bitwise(getattr(tracked, name).detach(), getattr(plain, name))
    assert tracked.alpha.requires_grad and not tracked.error_bound.requires_grad
    assert repr(tracked) == repr(plain)
    with torch.no_grad():
        assert not ns.solve(ns.BargainingProblem(vectors=vectors.clone().requires_grad_())).alpha.requires_grad


def test_items_without_an_answer_pass_on_zero():
    """The second item's players are opposed; the gradient of the others is as if it were not there."""
    good = draw(2, 3, seed=7)
    opposed = torch.stack([good[0], -good[0]])
    stack = torch.stack([good, opposed]).requires_grad_()
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    solution = ns.solve(ns.BargainingProblem(vectors=stack, weights=weights))
    assert solution.status.tolist() == [int(Status.SOLVED), int(Status.NO_AGREEMENT)]
    torch.where(solution.failed[:, None], 0.0, solution.alpha).sum().backward()
    alone = good.clone().requires_grad_()
    ns.solve(ns.BargainingProblem(vectors=alone)).alpha.sum().backward()
    assert torch.equal(stack.grad[1], torch.zeros(2, 3).double())
    assert torch.allclose(stack.grad[0], alone.grad, rtol=1e-12) and bool(weights.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_dtypes(dtype):
    vectors = draw(3, 6, seed=8).to(dtype).requires_grad_()
    ns.solve(ns.BargainingProblem(vectors=vectors), rtol=1e-4).alpha.sum().backward()
    wide = vectors.detach().double().requires_grad_()
    ns.solve(ns.BargainingProblem(vectors=wide)).alpha.sum().backward()
    assert vectors.grad.dtype == dtype
    assert torch.allclose(vectors.grad.double(), wide.grad, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def test_widely_scaled_players():
    """Norms over twelve decades; in logarithms the derivative knows no scale."""
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    vectors, logs = draw(3, 5, seed=9), {}
    for s in (scale, torch.ones_like(scale)):
        v = (s[:, None] * vectors).requires_grad_()
        ns.solve(ns.BargainingProblem(vectors=v)).alpha.log().sum().backward()
        logs[s] = v.grad * s[:, None]
    one, other = logs.values()
    assert torch.allclose(one, other, rtol=1e-9)


def test_an_inactive_ball_is_refused_with_the_reason():
    """Its solution is there; only its derivative is not, and in a batch the other items have theirs."""
    both = torch.tensor([[[1.0], [-1.0]], [[1.0], [0.5]]], dtype=torch.float64, requires_grad=True)
    solution = ns.solve(ns.BargainingProblem(vectors=both, disagreement=[-1.0, -2.0], radius=1.0))
    assert solution.success and solution.ball_multiplier[0].item() == 0 < solution.ball_multiplier[1].item()
    assert abs(solution.point[0, 0].item() - 0.5) < 1e-12
    (gradient,) = torch.autograd.grad(solution.utilities[1].sum(), both, retain_graph=True)
    assert torch.equal(gradient[0], torch.zeros(2, 1).double()) and bool((gradient[1] != 0).all())
    for outcome in (solution.utilities, solution.point, solution.alpha, solution.log_nash_product):
        with pytest.raises(InvalidProblem, match="the ball is inactive"):
            torch.autograd.grad(outcome[0].sum(), both, retain_graph=True)


def test_problem_with_a_graph_pickles():
    problem = ns.BargainingProblem(vectors=2 * draw(2, 3).requires_grad_())
    again = pickle.loads(pickle.dumps(problem))
    assert problem.sources and not again.sources
    assert_bitwise(ns.solve(again).alpha, ns.solve(problem).alpha.detach())


def test_finite_differences_can_fail():
    """The check itself notices a wrong derivative."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, bar):
            return 2 * bar

    with pytest.raises(GradcheckError):
        check(lambda v: outputs(ns.BargainingProblem(vectors=Wrong.apply(v))), draw(2, 3))
