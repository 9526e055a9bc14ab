"""The base-expert chain against the published recurrence and the identities that follow from it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import BargainConfig, ChainConfig, MomentumConfig
from tests.asserts import assert_bitwise, assert_near
from tests.torch_moe.build import CERTIFIED, TIGHT, domain_vectors, flat, naive_chain, nash_alpha, random_chain

COMPLEX = MomentumConfig(kind="complex", beta=0.9, phase=math.pi / 6)
QUATERNION = MomentumConfig(kind="quaternion", quaternion=(0.8, 0.3, -0.2, 0.4))
MOMENTA = {
    "none": (MomentumConfig(), 0.0),
    "real": (MomentumConfig(kind="real", beta=-0.6), -0.6),
    "complex": (COMPLEX, 0.9 * np.exp(1j * math.pi / 6)),
    "heavy_ball": (MomentumConfig(kind="heavy_ball", beta=0.7), 0.7),
}
EXACT = BargainConfig(scale="exact")


@pytest.mark.parametrize("kind", MOMENTA)
def test_uniform_chain_follows_the_recurrence(kind: str) -> None:
    momentum, beta = MOMENTA[kind]
    chain, experts, base = random_chain(ChainConfig(bargain="uniform", gamma=0.3, momentum=momentum))
    wanted = naive_chain(experts, base, [[1 / 3] * 3] * 3, 0.3, beta)
    for found, exact in zip(chain.bases(), wanted, strict=True):
        assert_near(flat(found), flat(exact), 0, TIGHT)


def test_bargained_coefficients_solve_every_layer() -> None:
    chain, experts, _ = random_chain(ChainConfig(bargain=EXACT, gamma=0.2, momentum=COMPLEX))
    bases = chain.bases()
    for record, layer_experts, base in zip(chain.report(), experts, bases, strict=False):
        tau = domain_vectors(layer_experts, base)
        assert_near(record["coefficients"], nash_alpha(tau @ tau.T), CERTIFIED)
        assert_near(record["gains"], 1 / np.array(record["alpha"]), CERTIFIED)
        assert_near(record["utilities"], tau @ (np.array(record["coefficients"]) @ tau), CERTIFIED)


def lengths(bases: list[dict[str, torch.Tensor]]) -> np.ndarray:
    """How far each layer moves the base expert, taken from the base experts themselves."""
    return np.array([np.linalg.norm(flat(b) - flat(a)) for a, b in itertools.pairwise(bases)])


def test_exact_steps_have_length_sqrt_n() -> None:
    for n in (2, 3, 5):
        chain, _, _ = random_chain(ChainConfig(bargain=EXACT, gamma=0.1), n=n)
        assert_near(lengths(chain.bases()), [0.1 * math.sqrt(n)] * 3, CERTIFIED)
        assert_near([r["step_norm"] for r in chain.report()], [math.sqrt(n)] * 3, CERTIFIED)


@pytest.mark.parametrize("kind", MOMENTA)
@pytest.mark.parametrize("bargain", ["uniform", EXACT])
def test_reported_moves_are_those_of_the_base_experts(kind: str, bargain: BargainConfig | str) -> None:
    chain, _, _ = random_chain(ChainConfig(bargain=bargain, gamma=0.1, momentum=MOMENTA[kind][0]), layers=6)
    bases = chain.bases()
    assert_near([r["base_move"] for r in chain.report()], lengths(bases), CERTIFIED)
    assert all((r["step_norm"] is None) == (bargain == "uniform") for r in chain.report())


def test_orthogonal_experts_get_the_inverse_of_their_length() -> None:
    chain, experts, base = random_chain(ChainConfig(bargain=EXACT, gamma=0.1), layers=2, shapes=((3, 4),))
    lengths = np.array([0.5, 2.0, 7.0])
    with torch.no_grad():
        tau = torch.zeros(3, 3, 4, dtype=torch.float64)
        for i, length in enumerate(lengths):
            tau[i, i, 2] = length
        experts[0]["weight"].copy_(base["weight"] + tau)
    chain.bases()
    assert_near(chain.report()[0]["alpha"], 1 / lengths, CERTIFIED)


@pytest.mark.parametrize("granularity", ["expert", "linear"])
@pytest.mark.parametrize("interval", [1, 2, "once"])
def test_interval_and_granularity(interval: int | str, granularity: str) -> None:
    """Coefficients are solved where they should be, from the Gram of their group, and held in between."""
    config = ChainConfig(bargain=EXACT, gamma=0.1, interval=interval, granularity=granularity)
    chain, experts, base = random_chain(config, layers=5)
    bases = chain.bases()
    every = 4 if interval == "once" else int(interval)
    groups = {"all": ["weight", "bias"]} if granularity == "expert" else {"weight": ["weight"], "bias": ["bias"]}
    for record in chain.report():
        solved = record["layer"] - record["layer"] % every
        assert record["resolved"] == (solved == record["layer"])
        names = groups[record["group"]]
        tau = domain_vectors({k: experts[solved][k] for k in names}, {k: bases[solved][k] for k in names})
        assert_near(record["coefficients"], nash_alpha(tau @ tau.T), CERTIFIED)
    for group, names in groups.items():
        rows = [r["coefficients"] for r in chain.report() if r["group"] == group]
        parts = [{k: e[k] for k in names} for e in experts]
        wanted = naive_chain(parts, {k: base[k] for k in names}, rows, 0.1)
        for found, exact in zip(bases, wanted, strict=True):
            assert_near(flat({k: found[k] for k in names}), flat(exact), 0, CERTIFIED)
    assert len(chain.report()) == 4 * len(groups)


def test_the_sign_of_the_phase_changes_no_bit() -> None:
    ends = []
    for phase in (0.4, -0.4):
        momentum = MomentumConfig(kind="complex", beta=0.8, phase=phase)
        chain, _, _ = random_chain(ChainConfig(gamma=0.3, momentum=momentum), layers=6)
        ends.append([flat(b) for b in chain.bases()])
    assert_bitwise(np.stack(ends[0]), np.stack(ends[1]))


def test_a_phase_changes_the_chain() -> None:
    """Else the test above would show nothing."""
    ends = []
    for phase in (0.0, 0.4):
        momentum = MomentumConfig(kind="complex", beta=0.8, phase=phase)
        chain, _, _ = random_chain(ChainConfig(gamma=0.3, momentum=momentum), layers=6)
        ends.append(flat(chain.bases()[-1]))
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def hamilton(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of quaternions (4, ...)."""
    w, x, y, z = a
    s, t, u, v = b
    return np.stack(
        [
            w * s - x * t - y * u - z * v,
            w * t + x * s + y * v - z * u,
            w * u - x * v + y * s + z * t,
            w * v + x * u - y * t + z * s,
        ]
    )


def test_a_quaternion_is_its_complex_twin() -> None:
    """Two buffers against four buffers and the Hamilton product, and against the twin as configured."""
    config = ChainConfig(bargain="uniform", gamma=0.1, momentum=QUATERNION)
    chain, experts, base = random_chain(config, layers=12)
    found = [flat(b) for b in chain.bases()]
    now = flat(base)
    mu = np.zeros((4, len(now)))
    beta = np.array(QUATERNION.quaternion)[:, None]
    for layer_experts, wanted in zip(experts, found[1:], strict=False):
        mu = hamilton(beta, mu)
        mu[0] += domain_vectors(layer_experts, {k: torch.zeros_like(t) for k, t in base.items()}).mean(0) - now
        now = now + 0.1 * mu[0]
        assert_near(wanted, now, 0, TIGHT)
    modulus, phase = math.hypot(0.8, math.hypot(0.3, 0.2, 0.4)), math.atan2(math.hypot(0.3, 0.2, 0.4), 0.8)
    twin = config.changed(momentum=MomentumConfig(kind="complex", beta=modulus, phase=phase))
    assert_near(np.stack([flat(b) for b in random_chain(twin, layers=12)[0].bases()]), np.stack(found), 0, TIGHT)


def test_heavy_ball_is_momentum_for_real_beta_only() -> None:
    def ends(kind: str, phase: float) -> np.ndarray:
        momentum = MomentumConfig(kind=kind, beta=0.7, phase=phase)
        return flat(random_chain(ChainConfig(gamma=0.2, momentum=momentum), layers=6)[0].bases()[-1])

    assert_near(ends("heavy_ball", 0.0), ends("complex", 0.0), 0, CERTIFIED)
    assert np.abs(ends("heavy_ball", 0.6) - ends("complex", 0.6)).max() > 1e-3


def test_buffers_start_at_zero_in_every_pass() -> None:
    chain, _, _ = random_chain(ChainConfig(bargain="uniform", gamma=0.1, momentum=COMPLEX))
    first = [flat(b) for b in chain.bases()]
    chain.invalidate()
    assert_bitwise(np.stack([flat(b) for b in chain.bases()]), np.stack(first))


@pytest.mark.parametrize("biases", ["bargain", "follow"])
def test_biases_bargain_or_follow(biases: str) -> None:
    """Weights alone bargain where biases follow; all of the expert moves either way."""
    config = ChainConfig(bargain=EXACT, gamma=0.2, biases=biases)
    chain, experts, _ = random_chain(config)
    bases = chain.bases()
    for layer, record in enumerate(chain.report()):
        names = ["weight", "bias"] if biases == "bargain" else ["weight"]
        tau = domain_vectors({k: experts[layer][k] for k in names}, {k: bases[layer][k] for k in names})
        assert_near(record["alpha"], nash_alpha(tau @ tau.T), CERTIFIED)
        c = np.array(record["coefficients"])
        wanted = flat(bases[layer]) + 0.2 * c @ domain_vectors(experts[layer], bases[layer])
        assert_near(flat(bases[layer + 1]), wanted, 0, TIGHT)
        assert_near(record["base_move"], np.linalg.norm(flat(bases[layer + 1]) - flat(bases[layer])), 0, 10 * TIGHT)
    with pytest.raises(InvalidProblem, match="have none"):
        random_chain(ChainConfig(biases="follow"), shapes=((4, 3),))
