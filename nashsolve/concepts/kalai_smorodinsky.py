r"""The Kalai-Smorodinsky solution: gains in proportion to the ideal gains.

.. math:: \max t \quad u_i - d_i \ge t\, w_i (I_i - d_i)

For three players or more the point where the ray to the ideal point leaves the set need not be Pareto optimal; leximin
of the relative gains, which agrees with the ray wherever that is, is what is computed.
[kalai_smorodinsky1975]_, [imai1983]_
"""

from __future__ import annotations

import numpy as np

from . import leximin, single
from .base import Agreement, Bargain, no_agreement
from .egalitarian import lexicographic
from .ideal import ideal_point


def agree(bargain: Bargain, ideal: str = "rational", refine: bool = True) -> Agreement:
    """ideal : "rational" (others keep their disagreement utility, the original) or "global"; refine : leximin."""
    if bargain.single:
        return _single(bargain, ideal)
    none = no_agreement(bargain)
    if none is not None:
        return none
    best = ideal_point(bargain, ideal)
    found = leximin.agree(bargain, bargain.weights * (best - bargain.disagreement), refine)
    return Agreement(found.proposal, found.proof, {**found.details, "ideal": best}, found.message)


def _single(bargain: Bargain, ideal: str) -> Agreement:
    table, d = bargain.problem.payoffs, bargain.disagreement
    rational = (table >= d).all(axis=1) if ideal == "rational" else np.ones(len(table), dtype=bool)
    if not rational.any():
        return single.agree(bargain, lambda gains: gains[:, 0])
    best = table[rational].max(axis=0)
    scale = bargain.weights * (best - d)
    found = single.agree(bargain, lambda gains: lexicographic(gains / scale))
    return Agreement(found.proposal, found.proof, {**found.details, "ideal": best}, found.message)
