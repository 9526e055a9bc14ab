"""Directions that do not bargain, for comparison: each is scaled to the same ball as the agreement."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls


def sum_direction(vectors: np.ndarray) -> np.ndarray:
    """The utilitarian one, ``sum_i g_i``, of length one; the plain mean points the same way."""
    return _unit(vectors.sum(axis=0))


def mean_direction(vectors: np.ndarray) -> np.ndarray:
    """The mean of the unit vectors ``g_i / |g_i|``, of length one."""
    return _unit((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0))


def min_norm_direction(vectors: np.ndarray) -> np.ndarray:
    """The shortest vector of the convex hull (MGDA), of length one.

    The minimum of ``|sum_i k_i g_i|^2 + (1 - sum k)^2`` over k >= 0 points at it exactly: for a fixed
    direction of k the best scale leaves ``q / (1 + q)``, which grows with the squared length q.
    """
    size = np.linalg.norm(vectors, axis=1).max()
    system = np.vstack([vectors.T / size, np.ones(len(vectors))])
    goal = np.append(np.zeros(vectors.shape[1]), 1.0)
    return _unit(nnls(system, goal)[0] @ vectors)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)
