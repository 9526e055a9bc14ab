"""nash_weights inside graphs: gradcheck, vmap, torch.func and torch.compile."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

import nashsolve as ns  # noqa: E402
from nashsolve.autograd import takes_over  # noqa: E402
from nashsolve.core.errors import NoAgreement  # noqa: E402
from tests.autograd.test_attach import check, draw  # noqa: E402


def weigh(vectors, weights=None):
    return ns.nash_weights(vectors @ vectors.mT, weights)


def grams(*shape, seed=0):
    rows = draw(*shape, seed=seed)
    return rows @ rows.mT


def test_derivatives():
    check(weigh, draw(3, 5), draw(3, low=0.5, seed=1))
    check(weigh, draw(2, 3, 5, seed=2))
    check(weigh, draw(3, 5, seed=3), draw(2, 3, low=0.5, seed=4))


def test_values_are_those_of_solve():
    gram = grams(3, 5)
    found = ns.nash_weights(gram.clone().requires_grad_())
    assert found.requires_grad
    assert torch.allclose(found.detach(), ns.solve(gram).alpha, rtol=1e-10)
    assert not ns.nash_weights(gram).requires_grad


def test_options_leave_the_operator_and_keep_the_derivative():
    gram = grams(3, 5).requires_grad_()
    found = ns.nash_weights(gram, solver="newton")
    (one,) = torch.autograd.grad(found.sum(), gram)
    (other,) = torch.autograd.grad(ns.nash_weights(gram).sum(), gram)
    assert torch.allclose(one, other, rtol=1e-8)


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (2, 1)], ids=str)
def test_vmap_is_the_batch(dims):
    gram, weights = grams(4, 3, 5, seed=5), draw(4, 3, low=0.5, seed=6)
    a = gram[0] if dims[0] is None else gram.movedim(0, dims[0])
    w = weights[0] if dims[1] is None else weights.movedim(0, dims[1])
    found = torch.func.vmap(ns.nash_weights, in_dims=dims)(a, w)
    for k in range(4):
        wanted = ns.nash_weights(gram[0 if dims[0] is None else k], weights[0 if dims[1] is None else k])
        assert torch.allclose(found[k], wanted, rtol=1e-10)


def test_vmap_inside_a_batch():
    gram, weights = grams(4, 2, 3, 5, seed=7), draw(4, 3, low=0.5, seed=8)
    found = torch.func.vmap(ns.nash_weights)(gram, weights)
    assert torch.allclose(found, ns.nash_weights(gram, weights[:, None]), rtol=1e-10)
    turned = torch.func.vmap(ns.nash_weights)(gram[:, 0], draw(4, 2, 3, low=0.5, seed=9))
    assert torch.allclose(turned, ns.nash_weights(gram[:, :1], draw(4, 2, 3, low=0.5, seed=9)), rtol=1e-10)


def test_torch_func():
    gram = grams(3, 5)
    found = torch.func.jacrev(lambda w: ns.nash_weights(gram, w))(torch.ones(3, dtype=torch.float64))
    alpha = ns.nash_weights(gram)
    wanted = torch.linalg.inv(gram + torch.diag(1 / alpha**2)) / alpha
    assert torch.allclose(found, wanted, rtol=1e-8)
    per_item = torch.func.vmap(torch.func.grad(lambda a: ns.nash_weights(a).sum()))(torch.stack([gram, 2 * gram]))
    assert torch.allclose(per_item[1], per_item[0] / 2**1.5, rtol=1e-8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_without_graph_breaks():
    vectors, weights = draw(2, 3, 5, seed=2).requires_grad_(), draw(3, low=0.5).requires_grad_()

    def loss(v, w):
        return weigh(v, w).log().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(vectors, weights), (vectors, weights))
    wanted = torch.autograd.grad(loss(vectors, weights), (vectors, weights))
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    with pytest.raises(NoAgreement):
        torch.compile(ns.nash_weights, fullgraph=True, backend="aot_eager")(
            torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
        )


def test_operator_is_well_behaved():
    arguments = (grams(2, 3, 5), torch.ones(3, dtype=torch.float64))
    assert set(torch.library.opcheck(torch.ops.nashsolve.nash_weights.default, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype):
    gram = torch.diag(torch.tensor([1.0, 4.0])).to(dtype).requires_grad_()
    alpha = ns.nash_weights(gram)
    assert alpha.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    alpha.sum().backward()
    assert gram.grad.dtype == dtype
    assert torch.allclose(gram.grad.diagonal().double(), torch.tensor([-0.5, -0.5 * 4**-1.5]).double(), rtol=1e-2)


def test_failure_raises():
    with pytest.raises(NoAgreement):
        ns.nash_weights(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double().requires_grad_())


def test_takes_over_only_graphs():
    gram = grams(2, 3)
    assert not takes_over(gram, None)
    assert takes_over(gram.clone().requires_grad_(), None) and takes_over(gram, gram.clone().requires_grad_())
    with torch.no_grad():
        assert not takes_over(gram.clone().requires_grad_())
