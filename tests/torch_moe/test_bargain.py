"""One bargain over a base expert: scales, disagreement, ridge, cap, budgets, and what happens without agreement."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import BargainConfig, BaseExpertChain, ChainConfig, PlainMember, bargain_over_base
from nashsolve.integrations.torch_moe.bargain import min_norm
from nashsolve.integrations.torch_moe.domain import DomainGram
from nashsolve.integrations.torch_moe.stability import UnstableChain
from tests.asserts import assert_bitwise, assert_near
from tests.helpers import needs
from tests.tolerances import tolerance
from tests.torch_moe.build import BLOCKING, CERTIFIED, SINGLE, TIGHT, flat, nash_alpha, random_chain

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(5, 12)) * RNG.uniform(0.5, 3.0, size=(5, 1))
GRAM = VECTORS @ VECTORS.T
POLICIES = ("hold", "face", "uniform", "min_norm")


def domain(gram: np.ndarray) -> DomainGram:
    return DomainGram(gram, 0.0)


def length(c: Any, gram: np.ndarray = GRAM) -> float:
    c = np.asarray(c)
    return float(np.sqrt(c @ gram @ c))


def test_scales() -> None:
    """Each scale by the property that defines it; all point the same way, and no two are the same."""
    alpha = nash_alpha(GRAM)
    found = {
        scale: bargain_over_base(domain(GRAM), BargainConfig(scale=scale)).coefficients
        for scale in ("exact", "frobenius", "sum_to_one", "unit_norm", "match_mean")
    }
    assert_near(found["exact"], alpha, CERTIFIED)
    assert_near(length(found["exact"]), math.sqrt(5), CERTIFIED)
    assert_near(found["frobenius"], nash_alpha(GRAM / np.linalg.norm(GRAM)), CERTIFIED)
    assert_near(found["sum_to_one"].sum(), 1.0, TIGHT)
    assert_near(length(found["unit_norm"]), 1.0, TIGHT)
    assert_near(length(found["match_mean"]), length(np.full(5, 0.2)), TIGHT)
    for c in found.values():
        assert_near(c / c.sum(), alpha / alpha.sum(), CERTIFIED)
    assert len({round(float(c.sum()), 9) for c in found.values()}) == 5


def test_equal_orthogonal_experts_make_the_published_scale_large() -> None:
    """sum of coefficients N^(5/4) in the "frobenius" scale: the reason why a step size of one diverges there."""
    for n in (8, 32):
        found = bargain_over_base(domain(4.0 * np.eye(n)), BargainConfig(scale="frobenius"))
        assert_near(found.coefficients.sum(), n**1.25, CERTIFIED)


def test_ridge_is_the_bargain_over_a_regularised_gram() -> None:
    found = bargain_over_base(domain(GRAM), BargainConfig(scale="exact", ridge=0.3))
    assert_near(found.coefficients, nash_alpha(GRAM + 0.3 * np.trace(GRAM) / 5 * np.eye(5)), CERTIFIED)
    assert np.abs(found.coefficients - nash_alpha(GRAM)).max() > 1e-3


def test_cap_shortens_the_whole_vector() -> None:
    free = bargain_over_base(domain(GRAM), BargainConfig(scale="exact")).coefficients
    capped = bargain_over_base(domain(GRAM), BargainConfig(scale="exact", cap=0.5 * free.max())).coefficients
    assert_near(capped, 0.5 * free, TIGHT)
    assert_bitwise(bargain_over_base(domain(GRAM), BargainConfig(scale="exact", cap=2 * free.max())).coefficients, free)


@pytest.mark.parametrize("given", ["radius", "radius_factor"])
def test_mean_disagreement(given: str) -> None:
    """The agreed step fills the ball, gains more than the mean step for everybody, and is stationary."""
    mean = length(np.full(5, 0.2))
    settings = {"radius": 1.5 * mean} if given == "radius" else {"radius_factor": 1.5}
    found = bargain_over_base(domain(GRAM), BargainConfig(disagreement="mean", scale="exact", **settings))
    c = found.coefficients
    gains = GRAM @ c - GRAM.mean(1)
    assert (gains > 0).all()
    assert_near(length(c), 1.5 * mean, CERTIFIED)
    ratio = c * gains
    assert_near(ratio, np.full(5, ratio.mean()), CERTIFIED)
    assert_near(found.record["gains"], gains, CERTIFIED)


def test_mean_disagreement_needs_a_ball_beyond_the_mean() -> None:
    """On the boundary the mean step is efficient already: nobody can gain."""
    short = BargainConfig(disagreement="mean", radius=0.99 * length(np.full(5, 0.2)))
    found = bargain_over_base(domain(GRAM), short)
    assert found.policy == "hold" and not found.coefficients.any()
    assert found.record["status"] == "NO_AGREEMENT"


def ccp_case(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(4, 4)) * np.exp(1.5 * rng.normal(size=(4, 1)))
    return vectors @ vectors.T


@needs("ccp")
def test_ccp_budget_gives_the_iterate_at_its_end() -> None:
    gram = ccp_case(2)
    exact = nash_alpha(gram)
    errors = []
    for iterations in (1, 2, 20, 60):
        found = bargain_over_base(domain(gram), BargainConfig(solver="ccp", iterations=iterations, scale="exact"))
        assert found.policy == ""
        errors.append(float(np.abs(found.coefficients / exact - 1).max()))
    assert errors[0] > 0.1, "one convex sub-problem is not the solution here"
    assert max(errors[1:]) < CERTIFIED


@needs("ccp")
def test_ccp_failures_meet_the_policy() -> None:
    """The published procedure has no first iterate here; its code would go on with equal weights in silence."""
    found = bargain_over_base(domain(ccp_case(3)), BargainConfig(solver="ccp", iterations=20))
    assert found.policy == "hold" and found.record["status"] == "NUMERICAL_ERROR" and found.record["message"]
    assert not found.coefficients.any()


def test_newton_budget_is_read() -> None:
    found = bargain_over_base(domain(GRAM), BargainConfig(iterations=1, scale="exact"))
    assert found.record["status"] in ("MAX_ITER", "SOLVED_INACCURATE")
    assert np.abs(found.coefficients / nash_alpha(GRAM) - 1).max() > 1e-8


@needs("cvxpy")
def test_solvers_agree() -> None:
    for solver in ("newton", "cvxpy"):
        found = bargain_over_base(domain(GRAM), BargainConfig(solver=solver, scale="exact"))
        assert found.record["solver"] == solver
        assert_near(found.coefficients, nash_alpha(GRAM), SINGLE)


def opposed() -> np.ndarray:
    """Five vectors of which 0, 1 and 2 cancel."""
    vectors = VECTORS.copy()
    vectors[2] = -(vectors[0] + vectors[1])
    return vectors


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_without_agreement(policy: str) -> None:
    vectors = opposed()
    gram = vectors @ vectors.T
    found = bargain_over_base(domain(gram), BargainConfig(on_no_agreement=policy))
    c = found.coefficients
    assert found.policy == policy
    assert found.record["status"] == "NO_AGREEMENT"
    y = np.array(found.record["certificate"])
    assert_near(y, [1 / 3, 1 / 3, 1 / 3, 0, 0], 0, BLOCKING)
    if policy == "hold":
        assert not c.any() and found.alpha is None
    elif policy == "uniform":
        assert_near(c, np.full(5, 0.2), TIGHT)
    elif policy == "min_norm":
        assert_near(c, y, 0, BLOCKING)
    else:
        utilities = gram @ c
        assert np.abs(utilities[:3]).max() < 1e-6 * np.abs(gram).max(), "those who block are held"
        assert (utilities[3:] > 1e-3).all(), "the others gain"
        assert_near(c.sum(), 1.0, CERTIFIED)


def test_min_norm_is_the_shortest_point_of_the_hull() -> None:
    y = min_norm(GRAM)
    assert_near(y.sum(), 1.0, TIGHT)
    slope = GRAM @ y
    assert (y >= 0).all() and (slope >= (1 - 1e-9) * (y @ slope)).all()
    assert_near(slope[y > 1e-9], np.full((y > 1e-9).sum(), y @ slope), CERTIFIED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ["mean", "copy", "upcycled", "opposite"])
def test_a_base_in_the_hull_is_held_and_reported(case: str, dtype: torch.dtype) -> None:
    """Base experts for which no agreement can exist: nothing moves, nothing is NaN, and the reason is told."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64).to(dtype)
    base = experts.mean(0)
    if case == "copy":
        base = experts[2].clone()
    if case == "upcycled":
        experts = base.expand(4, 6, 5).clone()
    if case == "opposite":
        base = (experts[0] + experts[1]) / 2
    members = [PlainMember({"w": experts.clone()}) for _ in range(3)]
    members[0].base = {"w": base}
    chain = BaseExpertChain(members, ChainConfig(bargain=BargainConfig(scale="exact")))
    for now in chain.bases():
        assert_bitwise(now["w"], base)
    for record in chain.report():
        assert record["policy"] == "hold" and record["coefficients"] == [0.0] * 4
        assert record["status"] in ("NO_AGREEMENT", "AMBIGUOUS")
        y = np.array(record["certificate"])
        hull = np.tensordot(y, (experts - base).double().numpy(), 1)
        size = float((experts - base).double().flatten(1).norm(dim=1).max())
        kind = str(dtype).removeprefix("torch.")
        assert abs(y.sum() - 1) < 1e-9 and np.linalg.norm(hull) <= tolerance(kind, "certificate") * size


def test_near_the_mean_alpha_grows_and_the_step_does_not() -> None:
    sums = []
    for noise in (0.1, 0.01, 0.001):
        generator = torch.Generator().manual_seed(0)
        experts = torch.randn(4, 40, generator=generator, dtype=torch.float64)
        base = experts.mean(0) + noise * torch.randn(40, generator=generator, dtype=torch.float64)
        members = [PlainMember({"w": experts}), PlainMember({"w": experts})]
        members[0].base = {"w": base}
        chain = BaseExpertChain(members, ChainConfig(bargain=BargainConfig(scale="exact")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnstableChain)
            chain.bases()
        record = chain.report()[0]
        assert_near(record["step_norm"], 2.0, CERTIFIED)
        sums.append(record["sum"])
    assert_near(np.array(sums[1:]) / sums[:-1], [10.0, 10.0], 0.1)


def test_experts_that_are_not_finite_are_named() -> None:
    chain, experts, _ = random_chain(ChainConfig())
    with torch.no_grad():
        experts[1]["weight"][2, 0, 0] = float("nan")
    with pytest.raises(InvalidProblem, match="expert 2 or the base expert of layer 1"):
        chain.bases()


def test_an_unstable_chain_warns_once_with_numbers() -> None:
    chain, _, _ = random_chain(ChainConfig(bargain=BargainConfig(scale="exact"), gamma=50.0))
    with pytest.warns(UnstableChain, match="spectral radius"):
        chain.bases()
    chain.invalidate()
    chain.bases()  # a second warning would be an error here


def test_products_in_float64_state_a_smaller_error() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = 1.0 + 1e-3 * torch.randn(3, 50, generator=generator)
    bounds = []
    for products in ("float32", "float64"):
        members = [PlainMember({"w": experts}), PlainMember({"w": experts})]
        members[0].base = {"w": torch.ones(50) + 1e-4}
        chain = BaseExpertChain(members, ChainConfig(bargain=BargainConfig(products=products)))
        chain.bases()
        bounds.append(chain.report()[0]["status"])
    assert bounds == ["SOLVED_INACCURATE", "SOLVED"]


def test_warm_start_is_state_and_is_saved() -> None:
    config = ChainConfig(bargain=BargainConfig(iterations=1, warm_start=True, scale="exact"))
    chain, experts, _ = random_chain(config, layers=2)
    chain.bases()
    cold = np.array(chain.report()[0]["alpha"])
    assert_bitwise(chain.state_dict()["alpha_start"][0, 0], cold)
    chain.bases()
    assert_bitwise(np.array(chain.report()[0]["alpha"]), cold)
    with torch.no_grad():
        experts[0]["weight"].mul_(1.0)
    chain.bases()
    warm = np.array(chain.report()[0]["alpha"])
    exact = nash_alpha(chain_gram(chain, experts[0]))
    assert np.abs(warm / exact - 1).max() < np.abs(cold / exact - 1).max()
    other, _, _ = random_chain(config, layers=2)
    other.load_state_dict({"alpha_start": torch.from_numpy(cold).reshape(1, 1, 3)})
    other.bases()
    assert_bitwise(np.array(other.report()[0]["alpha"]), warm)


def chain_gram(chain: BaseExpertChain, experts: dict[str, torch.Tensor]) -> np.ndarray:
    base = flat(chain.bases()[0])
    tau = np.stack([flat({k: e[i] for k, e in experts.items()}) - base for i in range(3)])
    return tau @ tau.T
