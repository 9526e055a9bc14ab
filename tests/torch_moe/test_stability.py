"""Stability of the chain: every closed form against eigenvalues of the simulated recurrence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nashsolve.core.errors import InvalidProblem, InvalidType
from nashsolve.integrations.torch_moe import stability
from tests.asserts import assert_near
from tests.tolerances import EPS, tolerance

UNSTABLE_BUT_CERTIFIED = (0.9 * np.exp(1j * np.pi / 6), 0.1, 29.5)
SUM = tolerance("float64", "sum")


def simulate(beta, step, layers, buffer=0j, error=1.0):
    """The chain as written: mu <- beta mu + dE, E <- E + gamma Re(mu), with dE = -alpha e and gamma alpha = step."""
    gamma, alpha = 2.0, step / 2.0
    found = []
    for _ in range(layers):
        buffer = beta * buffer - alpha * error
        error = error + gamma * buffer.real
        found.append((buffer, error))
    return found


def brute_radius(beta, step):
    """Largest eigenvalue modulus of the matrix whose columns are one simulated layer of each unit state."""
    columns = []
    for buffer, error in ((1.0 + 0j, 0.0), (1j, 0.0), (0j, 1.0)):
        ((mu, e),) = simulate(beta, step, 1, buffer, error)
        columns.append(np.stack([mu.real, mu.imag, e + 0 * mu.real], axis=-1))
    return np.abs(np.linalg.eigvals(np.stack(columns, axis=-1))).max(-1)


def draws(n, seed=0, top=1.1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-top, top, n) + 1j * rng.uniform(-top, top, n), rng.uniform(0, 4.5, n)


def test_region_is_exact_on_twenty_thousand_points():
    beta, step = draws(20_000)
    radius = brute_radius(beta, step)
    # Eigenvalues near a double root on the circle are known to about sqrt(eps); such points decide nothing.
    clear = np.abs(radius - 1) > 10 * np.sqrt(EPS["float64"])
    assert clear.sum() >= 19_990
    assert (stability.is_stable(beta, step) == (radius < 1))[clear].all()
    inside = stability.is_stable(beta, step)
    assert 1000 < inside.sum() < 19_000


def test_boundary_has_radius_one_and_no_slack():
    beta, _ = draws(2000, seed=1, top=0.7)
    limit = stability.largest_stable_step(beta)
    assert (np.abs(brute_radius(beta, limit) - 1) < 1e-6).all()
    assert (np.abs(stability.stability_slack(beta, limit)) < 1e-12).all()
    assert stability.is_stable(beta, limit * (1 - 1e-9)).all()
    assert not stability.is_stable(beta, limit * (1 + 1e-9)).any()
    assert not stability.is_stable(0.5, 0.0)  # nothing moves: the radius is one


def test_every_step_below_the_limit_is_stable():
    beta, _ = draws(500, seed=2, top=0.7)
    fractions = np.linspace(0.01, 0.999, 40)
    steps = stability.largest_stable_step(beta)[:, None] * fractions
    assert (brute_radius(beta[:, None], steps) < 1).all()
    assert stability.largest_stable_step(1.0) == 0 and stability.largest_stable_step(-0.8 + 0.7j) == 0


def test_known_limits_of_real_momentum():
    b = np.linspace(-0.95, 0.95, 39)
    assert_near(stability.largest_stable_step(b), 2 * (1 + b), rtol=SUM)


def test_polynomial_and_radius_belong_to_the_recurrence():
    beta, step = draws(200, seed=3)
    for b, h in zip(beta, step, strict=True):
        assert_near(
            stability.characteristic_polynomial(b, h),
            np.poly(stability.transition_matrix(b, h)),
            rtol=SUM,
            atol=10 * SUM,
        )
    assert_near(stability.spectral_radius(beta, step), brute_radius(beta, step), rtol=1e-6)


def test_remaining_error_is_what_the_chain_leaves():
    beta = 0.9 * np.exp(0.4j)
    wanted = [1.0, *(e for _, e in simulate(beta, 0.3, 24))]
    assert_near(stability.remaining_error(beta, 0.3, 24), wanted, rtol=SUM, atol=SUM)
    assert abs(stability.remaining_error((0.8, 0.3, 0.3, 0.3), 1.0, 12)[-1]) > 1  # unstable, yet no explosion


def hamilton(p, q):
    """Product of two quaternions."""
    a, b, c, d = p
    e, f, g, h = q
    return np.array(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def test_constant_quaternion_is_its_complex_twin():
    quaternion = (0.8, 0.3, -0.2, 0.4)
    twin = stability.quaternion_twin(quaternion)
    buffer, error, step = np.zeros(4), 1.0, 0.3
    for _, wanted in simulate(twin, step, 24):
        buffer = hamilton(quaternion, buffer) + np.array([-step / 2 * error, 0, 0, 0])
        error += 2 * buffer[0]
        assert_near(error, wanted, rtol=SUM, atol=SUM)
    assert stability.spectral_radius(quaternion, step) == stability.spectral_radius(twin, step)


def test_sign_of_the_phase_changes_no_bit():
    beta = 0.9 * np.exp(1j * np.pi / 12)
    one, other = stability.remaining_error(beta, 0.4, 24), stability.remaining_error(beta.conjugate(), 0.4, 24)
    assert one.tobytes() == other.tobytes()


def test_published_condition_passes_unstable_chains_and_the_corrected_one_does_not():
    beta, alpha, gamma = UNSTABLE_BUT_CERTIFIED
    assert stability.fujiwara_published(beta, alpha, gamma)
    assert brute_radius(beta, alpha * gamma) > 1
    assert not stability.fujiwara_corrected(beta, alpha * gamma)
    points, steps = draws(200_000, seed=4)
    certified = stability.fujiwara_corrected(points, steps)
    assert certified.sum() > 1000
    assert (brute_radius(points[certified], steps[certified]) < 1).all()
    assert (np.abs(points[certified]) < 0.5).all()


def test_published_condition_is_right_where_gamma_is_one_only():
    points, steps = draws(20_000, seed=5)
    assert (stability.fujiwara_published(points, steps, 1.0) == stability.fujiwara_corrected(points, steps)).all()
    # Only the product of alpha and gamma matters to the chain, but not to the published condition.
    one, other = stability.fujiwara_published(points, steps, 1.0), stability.fujiwara_published(points, steps / 9, 9.0)
    assert (one != other).any()


def test_published_region_differs_from_its_condition_and_holds_unstable_points():
    r, u = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(-1, 1, 401))
    printed = stability.region_published(r + 1j * u, 0.5, 2.0)
    condition = stability.fujiwara_published(r + 1j * u, 0.5, 2.0)
    assert (printed ^ condition).sum() > 0.1 * condition.sum()
    assert (printed & (brute_radius(r + 1j * u, 1.0) > 1)).any()


@pytest.mark.parametrize("step", [0.02, 0.1, 0.5, 0.9, 1.0, 1.3, 2.0, 3.5])
def test_no_momentum_on_a_grid_beats_the_optimal_one(step):
    choice = stability.optimal_beta(step)
    r, u = np.meshgrid(np.linspace(-0.3, 1, 261), np.linspace(0, 0.7, 141))
    assert choice.radius <= brute_radius(r + 1j * u, step).min() + SUM
    assert_near(choice.radius, brute_radius(choice.beta, step), rtol=1e-4, atol=1e-4)  # a triple root, cbrt(eps)
    real = stability.optimal_beta(step, real=True)
    assert real.beta.imag == 0
    assert (choice.radius < real.radius) == (step < 1)
    assert real.radius <= brute_radius(np.linspace(-0.9, 1, 20_001), step).min() + SUM
    assert_near(real.radius, brute_radius(real.beta, step), rtol=1e-4, atol=1e-4)


def test_lower_bounds_of_the_spectral_radius():
    beta, step = draws(20_000, seed=6)
    radius = brute_radius(beta, step)
    assert (radius >= np.sqrt(step) - 1 - 1e-6).all()
    small = step <= 2
    y = [max(np.roots([2, 0, -3 * h, h * h]).real) for h in step[small]]
    assert (radius[small] >= 1 - np.array(y) - 1e-6).all()


@pytest.mark.parametrize("step", [0.02, 0.3, 0.99])
def test_optimal_momentum_below_one_is_a_triple_root(step):
    choice = stability.optimal_beta(step)
    wanted = np.poly([choice.radius] * 3)
    assert_near(stability.characteristic_polynomial(choice.beta, step), wanted, rtol=SUM, atol=SUM)


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.33), (0.05, 0.2), (0.5, 2.5)])
def test_a_range_of_steps_is_served_by_its_worst_member(low, high):
    choice = stability.optimal_beta((low, high))
    steps = np.geomspace(low, high, 33)
    r, u = np.meshgrid(np.linspace(-0.1, 0.95, 106), np.linspace(0, 0.4, 41))
    grid = brute_radius((r + 1j * u)[..., None], steps).max(-1).min()
    assert choice.radius <= grid + 1e-6
    assert choice.radius >= brute_radius(choice.beta, steps).max() - SUM
    assert choice.radius <= stability.optimal_beta((low, high), real=True).radius
    assert choice.step == (low, high)


def test_quaternion_of_a_choice_is_its_momentum():
    choice = stability.optimal_beta(0.3)
    for direction in ((1, 1, 1), (0, -2, 1)):
        assert_near(stability.quaternion_twin(choice.quaternion(direction)), choice.beta, rtol=SUM)
    assert choice.quaternion() != choice.quaternion((0, -2, 1))
    with pytest.raises(InvalidProblem, match="direction"):
        choice.quaternion((0, 0, 0))


def test_a_choice_configures_the_momentum_of_a_chain():
    pytest.importorskip("torch", reason="the extra 'moe' is not installed")
    pytest.importorskip("pydantic", reason="the extra 'moe' is not installed")
    from nashsolve.integrations.torch_moe import MomentumConfig
    from nashsolve.integrations.torch_moe.momentum import Momentum

    choice = stability.optimal_beta(0.2)
    for settings in (
        choice.settings("complex"),
        choice.settings("quaternion"),
        choice.settings("quaternion", (0, 0, 3)),
    ):
        twin = complex(Momentum.of(MomentumConfig(**settings)).multiplier)
        assert_near([twin.real, abs(twin.imag)], [choice.beta.real, choice.beta.imag], rtol=SUM)
    with pytest.raises(InvalidProblem, match="kind"):
        choice.settings("real")


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, -0.4, 0.3j, 0.9 * np.exp(0.5j), (0.8, 0.3, 0.3, 0.3)])
def test_no_step_on_a_grid_beats_the_optimal_one(beta):
    choice = stability.optimal_step(beta)
    grid = np.linspace(0, float(stability.largest_stable_step(beta)), 5001)[1:-1]
    twin = stability.quaternion_twin(beta) if isinstance(beta, tuple) else complex(beta)
    assert choice.radius <= brute_radius(np.full(grid.shape, twin), grid).min() + 1e-6
    assert choice.largest_step == pytest.approx(grid[-1], rel=1e-3)


@pytest.mark.parametrize("phase", [0.0, 0.26, 1.0, 2.0, np.pi])
@pytest.mark.parametrize("step", [0.1, 0.9, 1.9, 2.0, 2.6, 3.9, 4.2])
def test_stable_moduli_are_those_of_the_eigenvalues(phase, step):
    found = stability.stable_moduli(phase, step)
    moduli = np.linspace(0.0005, 0.9995, 1000)
    wanted = brute_radius(moduli * np.exp(1j * phase), step) < 1
    inside = np.any([(low < moduli) & (moduli < high) for low, high in found] or [np.zeros(1000, bool)], axis=0)
    near_a_cut = np.any([np.abs(moduli - cut) < 1e-6 for pair in found for cut in pair] or [inside & False], axis=0)
    assert (inside == wanted)[~near_a_cut].all()


def test_an_unstable_chain_is_warned_about_with_numbers():
    quaternion = (0.8, 0.3, 0.3, 0.3)
    with pytest.warns(stability.UnstableChain) as caught:
        assert stability.warn_if_unstable(quaternion, [0.1, 1.0], where="encoder")
    text = str(caught[0].message)
    for number in ("0.9539", "33 degrees", "1.0355", "0.2536", "layer 1", "encoder"):
        assert number in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not stability.warn_if_unstable(quaternion, [0.0, 0.1])
    assert "lower |beta|" in stability.explain_stability(1.0, 0.1)
    assert stability.explain_stability(0.0, 2.0)  # the limit itself is not stable


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: stability.is_stable(np.nan, 1.0), InvalidProblem, "beta"),
        (lambda: stability.is_stable("0.9", 1.0), InvalidType, "beta"),
        (lambda: stability.is_stable((0.8, 0.3), 1.0), InvalidProblem, "quaternion has 2"),
        (lambda: stability.is_stable((0.8, 0.3, 0, "x"), 1.0), InvalidType, r"quaternion\[3\]"),
        (lambda: stability.is_stable(0.5, -1.0), InvalidProblem, "step"),
        (lambda: stability.is_stable(0.5, 1j), InvalidType, "step"),
        (lambda: stability.optimal_beta(4.0), InvalidProblem, "h = 4"),
        (lambda: stability.optimal_beta((0.0, 1.0)), InvalidProblem, "low"),
        (lambda: stability.optimal_beta((1.0, 0.5, 2.0)), InvalidProblem, "low, high"),
        (lambda: stability.optimal_step(1.0), InvalidProblem, "modulus 1"),
        (lambda: stability.remaining_error(0.5, 1.0, -1), InvalidProblem, "n_layers"),
        (lambda: stability.fujiwara_published(0.5, -1.0, 1.0), InvalidProblem, "alpha"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
