"""The problem that is shipped, and the rules that it is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from nashsolve.demos import other_rules
from nashsolve.demos.digits_gradients import NAMES, class_gradients
from tests.tolerances import EPS


@pytest.fixture(scope="module")
def vectors():
    pytest.importorskip("sklearn", reason="scikit-learn brings the digits")
    return class_gradients()


def test_players_and_parameters(vectors):
    assert vectors.shape == (10, 650)
    assert len(NAMES) == 10
    np.testing.assert_array_equal(vectors, class_gradients())


def test_vectors_are_descent_directions(vectors):
    """A step along the sum lowers the mean loss, so a later point has shorter gradients."""
    assert np.linalg.norm(class_gradients(steps=200).sum(0)) < np.linalg.norm(vectors.sum(0))


def test_rate_and_steps_change_the_point(vectors):
    assert not np.array_equal(class_gradients(rate=0.25), vectors)
    assert not np.array_equal(class_gradients(steps=10), vectors)


@pytest.mark.parametrize("rule", ["sum_direction", "mean_direction", "min_norm_direction"])
def test_rules_reach_the_sphere(vectors, rule):
    assert abs(np.linalg.norm(getattr(other_rules, rule)(vectors)) - 1) <= 8 * EPS["float64"]


def test_min_norm_maximizes_the_least_utility():
    """By duality the direction of the shortest hull point is the one whose least product is largest."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(5, 12)) + 0.5
    best = other_rules.min_norm_direction(rows)
    others = best + 1e-3 * rng.normal(size=(500, 12))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert (rows @ best).min() > (rows @ others.T).min(axis=0).max()


def test_min_norm_of_two_players_by_hand():
    found = other_rules.min_norm_direction(np.array([[1.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(found, np.array([2.0, 1.0]) / np.sqrt(5), rtol=64 * EPS["float64"])
