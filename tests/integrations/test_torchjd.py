"""The aggregator in the place of TorchJD's NashMTL: the same call, the exact answer, no state."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
pytest.importorskip("torchjd", reason="the extra 'torchjd' is not installed")

from torchjd.aggregation import Aggregator, Weighting  # noqa: E402
from torchjd.autojac import backward, jac_to_grad, mtl_backward  # noqa: E402

import nashsolve as ns  # noqa: E402
from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.core.status import Status  # noqa: E402
from nashsolve.integrations.torchjd import NashBargaining, NashBargainingWeighting, NashMTL  # noqa: E402
from tests.integrations.test_multitask import model, rows  # noqa: E402


def test_it_is_what_torchjd_expects():
    assert isinstance(NashBargaining(), Aggregator) and isinstance(NashBargainingWeighting(), Weighting)
    assert str(NashMTL(n_tasks=3)) and "max_norm=1.0" in repr(NashBargaining())


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_it_agrees_with_their_nashmtl_where_that_is_right(max_norm):
    pytest.importorskip("ecos", reason="TorchJD's NashMTL needs ecos")
    from torchjd.aggregation import NashMTL as Published

    jacobian = rows(3, 150, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CVXPY's about problems that it compiles anew, and ECOS's own
        wanted = Published(n_tasks=3, max_norm=max_norm)(jacobian)
    assert torch.allclose(NashMTL(n_tasks=3, max_norm=max_norm)(jacobian), wanted, atol=1e-5)


def test_it_is_right_where_theirs_stops_at_its_start():
    """Two tasks in conflict, for which theirs answers (1, 1), and the second task loses."""
    jacobian = torch.tensor([[1.0, 0.0], [-0.89 * 0.9, 0.89 * 0.19**0.5]], dtype=torch.float64)
    weights = NashBargaining(max_norm=0, gram_error=1e-12).weighting(jacobian)
    assert torch.allclose(weights, torch.tensor([3.1623, 3.5531]).double(), atol=1e-4)
    assert bool((jacobian @ (weights @ jacobian) > 0).all())


def test_mtl_backward_and_jac_to_grad():
    trunk, heads, losses = model()
    aggregator = NashBargaining()
    features = losses.features()
    mtl_backward(losses(features), features=features)
    jac_to_grad(trunk.parameters(), aggregator)
    step = torch.cat([p.grad.ravel() for p in trunk.parameters()])
    assert torch.allclose(step.norm(), torch.tensor(1.0), rtol=1e-4)
    assert int(aggregator.status) <= int(Status.SOLVED_INACCURATE)
    assert all(h.weight.grad is not None for h in heads)
    for parameter in trunk.parameters():
        parameter.grad = None
    backward(losses())
    jac_to_grad(trunk.parameters(), aggregator, optimize_gramian_computation=True)
    assert all(p.grad is not None for p in trunk.parameters())


def test_no_state_and_no_count_of_tasks():
    aggregator = NashBargaining()
    one = aggregator(rows(3))
    aggregator(rows(5, seed=2))
    assert torch.equal(aggregator(rows(3)), one)


def test_gradients_flow_through():
    jacobian = rows(3).requires_grad_()
    aggregator = NashBargaining(gram_error=0.0)
    assert torch.autograd.gradcheck(aggregator, jacobian)


def test_power_shifts_the_gains():
    jacobian = rows(3)
    even, uneven = NashBargaining(), NashBargaining(power=torch.tensor([1.0, 1.0, 10.0]).double())
    assert float((jacobian @ uneven(jacobian))[2]) > float((jacobian @ even(jacobian))[2])


def test_opposed_rows_make_no_step_and_say_so():
    aggregator = NashBargaining()
    assert aggregator(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).tolist() == [0.0, 0.0]
    assert int(aggregator.status) == int(Status.NO_AGREEMENT)
    assert NashBargaining(on_failure="mean")(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).tolist() == [-0.5, 0.0]
    with pytest.raises(ns.NoAgreement):
        NashBargaining(on_failure="raise")(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))


def test_published_reuse_of_weights():
    first, second = rows(3), rows(3, seed=5)
    aggregator = NashMTL(max_norm=0, update_weights_every=2)
    weights = aggregator.weighting(first)
    assert torch.equal(aggregator.weighting(second), weights)
    assert not torch.equal(aggregator.weighting(second), weights)
    aggregator.weighting(first)
    aggregator.reset()
    assert torch.equal(aggregator.weighting(first), weights)


def test_arguments_are_checked():
    with pytest.raises(InvalidProblem, match="3 rows, and n_tasks is 2"):
        NashMTL(n_tasks=2)(rows(3))
    with pytest.raises(InvalidProblem, match="update_weights_every is 0"):
        NashMTL(update_weights_every=0)
    with pytest.raises(InvalidProblem, match="max_norm is -1"):
        NashBargaining(max_norm=-1)
    assert NashMTL(optim_niter=1)(rows(8, 9)).abs().max() == 0 < NashMTL()(rows(8, 9)).abs().max()
