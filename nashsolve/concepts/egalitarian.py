r"""The egalitarian or proportional solution: the gains grow together, in given proportions, as far as possible.

.. math:: \max t \quad u_i - d_i \ge c_i t

Where that leaves room, the gains of the players who are not held back are lifted in the same way (leximin).
[kalai1977proportional]_
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nashsolve.problems.family import read_vector

from . import leximin, single
from .base import Agreement, Bargain
from .checks import positive


def agree(bargain: Bargain, proportions: Sequence[float] | Any = None, refine: bool = True) -> Agreement:
    """proportions : (n,) positive c, by default the weights; refine : leximin completion."""
    scale = bargain.weights if proportions is None else _read(proportions, bargain)
    if bargain.single:
        return single.agree(bargain, lambda gains: lexicographic(gains / scale))
    return leximin.agree(bargain, scale, refine)


def lexicographic(ratios: Any) -> Any:
    """Values (K,) that order rows by their smallest entry, then the next, and so on."""
    rows = np.sort(ratios, axis=1)
    rows = np.where(np.isnan(rows), -np.inf, rows)
    order = np.lexsort(rows.T[::-1])
    value = np.zeros(len(rows))
    same = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    value[order] = np.concatenate([[0], np.cumsum(~same)])
    return value


def _read(proportions: Any, bargain: Bargain) -> Any:
    found = read_vector(proportions, "proportions", bargain.n, bargain.problem.names, 1.0)
    return positive(found, "proportions")
