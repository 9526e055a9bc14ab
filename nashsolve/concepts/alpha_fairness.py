r"""Alpha-fair welfare of the gains, from the sum (0) over the Nash product (1) to the smallest gain (infinity).

.. math:: \max \sum_i w_i \frac{(u_i - d_i)^{1 - a}}{1 - a}

[mo_walrand2000]_
"""

from __future__ import annotations

import math

from nashsolve.core.errors import InvalidProblem, InvalidType

from . import egalitarian, utilitarian
from .base import Agreement, Bargain
from .nash import agree_fair


def agree(bargain: Bargain, aversion: float = 2.0) -> Agreement:
    """aversion : a >= 0, or infinity; 2 by default, which is minimum potential delay in networks.

    At infinity the weights play no part and the players' gains are made equal as far as possible.
    """
    if isinstance(aversion, bool) or not isinstance(aversion, int | float):
        raise InvalidType(f"aversion is {aversion!r}; a number is needed")
    if not aversion >= 0:
        raise InvalidProblem(f"aversion is {aversion}; it must be at least 0")
    if aversion == 0:
        return utilitarian.agree(bargain, rational=True)
    if math.isinf(aversion):
        return egalitarian.agree(bargain, proportions=[1.0] * bargain.n)
    return agree_fair(bargain, float(aversion))
