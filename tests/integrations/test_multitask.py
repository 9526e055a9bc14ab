"""The step on which losses agree: its weights, its scaling, and plain torch training with it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem, InvalidType, NoAgreement, SolverFailed  # noqa: E402
from nashsolve.core.status import Status  # noqa: E402
from nashsolve.integrations.multitask import nash_backward, published_scaling, task_weights  # noqa: E402


def rows(n=4, p=30, seed=0, dtype=torch.float64):
    return torch.randn((n, p), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gram_of(vectors):
    return vectors @ vectors.T


OPPOSED = gram_of(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))


def test_weights_are_those_of_the_bargain():
    gram = gram_of(rows())
    power = torch.tensor([1.0, 2.0, 1.0, 0.5]).double()
    free = task_weights(gram, power, max_norm=0)
    assert torch.allclose(free.weights, ns.nash_weights(gram, power), rtol=1e-9)
    assert int(free.status) == int(Status.SOLVED_INACCURATE)  # the Gram's own error limits it
    clipped = task_weights(gram, power, max_norm=0.5)
    assert torch.allclose(clipped.weights, free.weights * 0.5 / power.sum().sqrt(), rtol=1e-9)
    loose = task_weights(gram, power, max_norm=100.0)
    assert torch.allclose(loose.weights, free.weights)


def test_everybody_gains_in_float32():
    vectors = rows(6, 200, seed=3, dtype=torch.float32)
    found = task_weights(gram_of(vectors))
    assert found.weights.dtype == torch.float32
    gains = vectors @ (found.weights @ vectors)
    assert bool((gains > 0).all())
    shares = found.weights * gains
    assert torch.allclose(shares, shares.mean().expand(6), rtol=1e-4)


def test_fallbacks_where_tasks_are_opposed():
    zero = task_weights(OPPOSED)
    assert zero.weights.tolist() == [0.0, 0.0] and int(zero.status) == int(Status.NO_AGREEMENT)
    assert task_weights(OPPOSED, on_failure="mean").weights.tolist() == [0.5, 0.5]
    with pytest.raises(NoAgreement):
        task_weights(OPPOSED, on_failure="raise")
    with pytest.raises(SolverFailed):
        task_weights(gram_of(rows()), on_failure="raise", max_iter=0)
    broken = task_weights(torch.full((2, 2), torch.nan))
    assert broken.weights.tolist() == [0.0, 0.0] and int(broken.status) == int(Status.INVALID_INPUT)


def test_gram_error_hides_what_it_cannot_tell():
    near = gram_of(torch.tensor([[1.0, 1e-3], [-1.0, 1e-3]]).double())
    assert int(task_weights(near, gram_error=1e-9).status) <= int(Status.SOLVED_INACCURATE)
    assert int(task_weights(near, gram_error=1e-4).status) > int(Status.SOLVED_INACCURATE)


@pytest.mark.parametrize("max_norm", [0, 1.0])
def test_weights_are_differentiable(max_norm):
    base = gram_of(rows(3))

    def weigh(a):
        return task_weights((a + a.T) / 2, max_norm=max_norm, gram_error=0.0).weights

    assert torch.autograd.gradcheck(weigh, base.requires_grad_())
    opposed = OPPOSED.double().requires_grad_()
    task_weights(opposed).weights.sum().backward()
    assert torch.equal(opposed.grad, torch.zeros(2, 2).double())


def test_published_scaling_is_a_clip():
    gram = torch.diag(torch.tensor([4.0, 9.0]))
    alpha = torch.tensor([0.5, 1 / 3])
    assert torch.equal(published_scaling(alpha, gram, 0), alpha)
    assert torch.equal(published_scaling(alpha, gram, 2.0), alpha)
    assert torch.allclose(published_scaling(alpha, gram), alpha / 2**0.5)


def model(seed=0):
    torch.manual_seed(seed)
    trunk = torch.nn.Linear(5, 8)
    heads = [torch.nn.Linear(8, 1) for _ in range(3)]
    x, y = torch.randn(32, 5), torch.randn(32, 3)

    def losses(h=None):
        h = torch.tanh(trunk(x)) if h is None else h
        return [((head(h)[:, 0] - y[:, k]) ** 2).mean() for k, head in enumerate(heads)]

    losses.features = lambda: torch.tanh(trunk(x))
    return trunk, heads, losses


def test_nash_backward_is_the_bargained_step():
    trunk, heads, losses = model()
    found = nash_backward(losses(), trunk.parameters(), [h.parameters() for h in heads])
    jacobian = torch.stack(
        [
            torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(trunk.parameters()), retain_graph=True)])
            for loss in losses()
        ]
    )
    step = torch.cat([p.grad.ravel() for p in trunk.parameters()])
    assert torch.allclose(step, found.weights.float() @ jacobian, atol=1e-6)
    assert torch.allclose(step.norm(), torch.tensor(1.0), rtol=1e-5)
    for k, head in enumerate(heads):
        (wanted,) = torch.autograd.grad(losses()[k], [head.weight])
        assert torch.allclose(head.weight.grad, wanted, atol=1e-7)
    nash_backward(losses(), trunk.parameters())
    assert torch.allclose(torch.cat([p.grad.ravel() for p in trunk.parameters()]), 2 * step, atol=1e-6)


def test_training_with_it_lowers_every_loss():
    trunk, heads, losses = model()
    optimizer = torch.optim.SGD([*trunk.parameters(), *(p for h in heads for p in h.parameters())], lr=0.02)
    first = [x.item() for x in losses()]
    for _ in range(60):
        optimizer.zero_grad()
        nash_backward(losses(), trunk.parameters(), [h.parameters() for h in heads])
        optimizer.step()
    assert all(b.item() < a for a, b in zip(first, losses(), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_norm": -1.0}, "max_norm is -1.0"),
        ({"max_norm": True}, "max_norm is True"),
        ({"on_failure": "face"}, "zero, mean, raise"),
        ({"gram": torch.zeros(2, 3)}, r"\(2, 3\)"),
        ({"gram": torch.zeros(1, 2, 2)}, "one square matrix"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(InvalidProblem, match=words):
        task_weights(**({"gram": torch.eye(2)} | options))


def test_bad_losses_are_named():
    trunk, _, losses = model()
    with pytest.raises(InvalidType, match=r"losses\[0\]"):
        nash_backward([torch.zeros(3)], trunk.parameters())
    with pytest.raises(InvalidProblem, match="shared is empty"):
        nash_backward(losses(), [])
    with pytest.raises(InvalidProblem, match="losses is empty"):
        nash_backward([], trunk.parameters())
    with pytest.raises(InvalidProblem, match="own has 1 entries for 3"):
        nash_backward(losses(), trunk.parameters(), [[]])
