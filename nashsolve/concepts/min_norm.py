r"""The smallest gain made as large as possible, every player counted alike: the common descent direction of MGDA.

On a ball with zero disagreement the agreed direction is the shortest vector in the convex hull of the players' vectors,

.. math:: \max_{\|x\| \le r} \min_i g_i^\top x = r \min_{y \ge 0, \sum y = 1} \Big\|\sum_i y_i g_i\Big\|

and y is `solution.alpha`. On other sets it is the same max-min problem. Weights play no part, and slack players are not
lifted; use the egalitarian solution for that. [desideri2012]_
"""

from __future__ import annotations

import numpy as np

from . import leximin, single
from .base import Agreement, Bargain


def agree(bargain: Bargain) -> Agreement:
    """Certified by its multipliers y."""
    if bargain.single:
        return single.agree(bargain, lambda gains: gains.min(axis=1))
    return leximin.agree(bargain, np.ones(bargain.n), refine=False)
