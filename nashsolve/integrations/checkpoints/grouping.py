"""Which experts of a layer become one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .recipe import Groups

Array = np.ndarray[Any, Any]


def group(
    recipe: Groups,
    layer: int,
    kept: int,
    routing_groups: int,
    *,
    similarity: Array,
    distance: Array,
    usage: Array | None,
) -> list[list[int]]:
    """Groups of a layer in the order of the merged experts; each holds its members in ascending order.

    Parameters
    ----------
    recipe : the key `groups`
    layer : number of the layer, for groups given layer by layer
    kept : groups to make
    routing_groups : the experts lie in this many equal stretches, which no group crosses
    similarity : (N, N) cosines, for weight_cosine (of weights) and router_usage (of router rows)
    distance : (N, N) for hierarchical
    usage : (N,) share of choices, for router_usage
    """
    if recipe.given_by_layer is not None:
        return [sorted(part) for part in recipe.given_by_layer[layer]]
    if recipe.given is not None:
        return [sorted(part) for part in recipe.given]
    stretch = len(similarity) // routing_groups
    found = []
    for first in range(0, len(similarity), stretch):
        here = np.arange(first, first + stretch)
        inside = np.ix_(here, here)
        wanted = kept // routing_groups
        if recipe.by == "hierarchical":
            parts = agglomerate(distance[inside], wanted, recipe.linkage)
        elif recipe.by == "weight_cosine":
            parts = around_seeds(similarity[inside], spread_seeds(similarity[inside], wanted))
        else:
            assert usage is not None
            most = np.argsort(-usage[here], kind="stable")[:wanted]
            parts = around_seeds(similarity[inside], [int(i) for i in most])
        found += sorted([first + i for i in part] for part in parts)
    return found


def agglomerate(distance: Array, wanted: int, linkage: str) -> list[list[int]]:
    """Join the two nearest clusters until `wanted` are left; ties go to the lowest indices.

    Parameters
    ----------
    linkage : distance of clusters: average, complete (largest) or single (smallest) distance of members
    """
    clusters = [[i] for i in range(len(distance))]
    apart = distance.astype(float).copy()
    np.fill_diagonal(apart, np.inf)
    while len(clusters) > wanted:
        a, b = sorted(int(i) for i in np.unravel_index(np.argmin(apart), apart.shape))
        sizes = len(clusters[a]), len(clusters[b])
        if linkage == "average":
            joined = (sizes[0] * apart[a] + sizes[1] * apart[b]) / sum(sizes)
        else:
            joined = (np.maximum if linkage == "complete" else np.minimum)(apart[a], apart[b])
        apart[a] = apart[:, a] = joined
        apart[a, a] = np.inf
        apart = np.delete(np.delete(apart, b, axis=0), b, axis=1)
        clusters[a] += clusters.pop(b)
    return [sorted(cluster) for cluster in clusters]


def spread_seeds(similarity: Array, wanted: int) -> list[int]:
    """The most central expert, then again and again the one least like every seed so far."""
    seeds = [int(np.argmax(similarity.sum(axis=1)))]
    while len(seeds) < wanted:
        nearest = similarity[:, seeds].max(axis=1)
        nearest[seeds] = np.inf
        seeds.append(int(np.argmin(nearest)))
    return seeds


def around_seeds(similarity: Array, seeds: list[int]) -> list[list[int]]:
    """Everyone joins the most similar seed."""
    groups: dict[int, list[int]] = {seed: [seed] for seed in seeds}
    for i in range(len(similarity)):
        if i not in groups:
            groups[max(seeds, key=lambda s: (similarity[i, s], -s))].append(i)
    return [sorted(part) for part in groups.values()]


def cosines(gram: Array) -> Array:
    """Cosines of vectors from their Gram; zero for a zero vector."""
    length = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return np.clip(scale[:, None] * gram * scale[None, :], -1.0, 1.0)


def distances(gram: Array) -> Array:
    """Euclidean distances of vectors from their Gram."""
    square = np.diagonal(gram)
    return np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * gram, 0.0))
