"""Neurons of experts put in one order before merging: a permutation changes no output, only what is averaged."""

from __future__ import annotations

from typing import Any

import numpy as np

from .vectors import Stored

Array = np.ndarray[Any, Any]


def match_neurons(reference: Stored, other: Stored) -> Array:
    """Order of the other expert's neurons that brings its weights nearest to the reference's.

    Maximizes over permutations the inner product of the two experts: the sum over gate, up and down of the products of
    matched neurons' weights, an assignment problem. [ainsworth2023]_

    Returns
    -------
    order : (inner,) integers; neuron i of the reference goes with neuron ``order[i]`` of the other
    """
    from scipy.optimize import linear_sum_assignment

    score: Array | None = None
    for part in reference.segments:
        one, two = reference.whole(part), other.whole(part)
        product = one.T @ two if part == "down" else one @ two.T
        score = product if score is None else score + product
    assert score is not None
    return np.asarray(linear_sum_assignment(score, maximize=True)[1])
