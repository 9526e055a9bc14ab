"""Bargains of tokens: against the solver, with derivatives, and with players who cannot agree."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.integrations.torch_moe.merge_rules.token_bargain import token_shares
from tests.asserts import assert_near
from tests.torch_moe.build import BLOCKING, CERTIFIED, SINGLE, TIGHT, nash_alpha

SPREAD = [1e-4, 0.03, 0.5, 1.0, 40.0]


def instances(k: int, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(k)
    vectors = rng.normal(size=(tokens, k, 8)) * rng.choice(SPREAD, size=(tokens, k, 1))
    return torch.from_numpy(vectors @ vectors.transpose(0, 2, 1)), torch.from_numpy(rng.dirichlet(np.ones(k), tokens))


@pytest.mark.parametrize(("k", "rtol"), [(2, CERTIFIED), (3, SINGLE), (5, SINGLE)])
def test_shares_are_those_of_the_bargain(k: int, rtol: float) -> None:
    gram, w = instances(k)
    shares, opposed = token_shares(gram, w)
    assert not opposed.any()
    assert_near(shares.sum(-1), torch.ones(len(w), dtype=torch.float64), TIGHT)
    for g, p, found in zip(gram.numpy(), w.numpy(), shares, strict=True):
        alpha = nash_alpha(g, p)
        assert_near(found, alpha / alpha.sum(), rtol)


def test_one_player_takes_all() -> None:
    shares, opposed = token_shares(torch.ones(3, 1, 1), torch.tensor([[0.2], [0.7], [0.0]]))
    assert_near(shares, torch.ones(3, 1), 0)
    assert not opposed.any()


@pytest.mark.parametrize("k", [2, 4])
def test_gradcheck(k: int) -> None:
    rng = np.random.default_rng(k)
    vectors = torch.from_numpy(rng.normal(size=(3, k, 6))).requires_grad_()
    w = torch.from_numpy(rng.dirichlet(np.ones(k), 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: token_shares(v @ v.mT, w)[0], (vectors, w))


@pytest.mark.parametrize("k", [2, 3])
def test_players_who_cannot_agree_take_the_routers_weights(k: int) -> None:
    """Opposed players, and a player without a vector; the other tokens and all gradients stay sound."""
    gram, w = instances(k, tokens=3)
    v = torch.tensor([1.0, 2.0], dtype=torch.float64)
    rows = torch.stack([v, -v, *[0 * v] * (k - 2)]).requires_grad_()
    gram = torch.stack([rows @ rows.mT, gram[1], torch.zeros_like(gram[2])])
    w = w.clone().requires_grad_()
    shares, opposed = token_shares(gram, w)
    assert opposed.tolist() == [True, False, True]
    assert_near(shares[[0, 2]].detach(), w[[0, 2]].detach(), 0, TIGHT)
    alpha = nash_alpha(gram[1].detach().numpy(), w[1].detach().numpy())
    assert_near(shares[1].detach(), alpha / alpha.sum(), SINGLE)
    found = torch.autograd.grad((shares * torch.rand_like(shares)).sum(), (rows, w))
    assert all(torch.isfinite(g).all() for g in found)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_a_dropped_choice_takes_no_part(k: int) -> None:
    """Weight zero: the others bargain as if it were not there; a token whose choices are all dropped is harmless."""
    gram, w = instances(k, tokens=2)
    w = torch.stack([w[0], 0 * w[1]])
    w[0, 0] = 0.0
    w.requires_grad_()
    shares, opposed = token_shares(gram, w)
    rest, _ = token_shares(gram[:1, 1:, 1:], w[:1, 1:])
    assert float(shares[0, 0].detach()) == 0
    assert_near(shares[0, 1:].detach(), rest[0].detach(), SINGLE)
    assert torch.isfinite(shares).all() and not opposed.any()
    assert torch.isfinite(torch.autograd.grad((shares * torch.rand_like(shares)).sum(), w)[0]).all()


def test_a_little_power_is_enough_not_to_be_hurt() -> None:
    """As one weight goes to zero its player is left with a gain of zero, not with a loss: it stays in the mixture."""
    gram = torch.tensor([[[1.0, -0.6], [-0.6, 1.0]]], dtype=torch.float64)
    shares, _ = token_shares(gram, torch.tensor([[1e-12, 1.0]], dtype=torch.float64))
    utilities = gram[0] @ shares[0]
    assert abs(float(utilities[0])) < 1e-6 < float(utilities[1])
    assert_near(shares[0, 0] / shares[0, 1], 0.6, BLOCKING)
