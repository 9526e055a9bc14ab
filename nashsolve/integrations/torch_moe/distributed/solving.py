"""One bargain for all ranks: solved everywhere from the same bytes, or on one rank for all."""

from __future__ import annotations

import numpy as np

from ..bargain import Agreement, bargain_over_base
from ..chain_config import BargainConfig
from ..domain import DomainGram
from .team import Team


def solve_once(domain: DomainGram, config: BargainConfig, start: np.ndarray | None, team: Team | None) -> Agreement:
    """The agreement, the same on every rank.

    Parameters
    ----------
    domain, config, start : as `bargain_over_base` takes them, the same on every rank
    team : whose first rank solves for all; None: every rank solves
    """
    if team is None:
        return bargain_over_base(domain, config, start)
    found: Agreement | Exception | None = None
    if team.rank == 0:
        try:
            found = bargain_over_base(domain, config, start)
        except Exception as error:  # raised on every rank alike, below
            found = error
    found = team.from_first(found)
    if isinstance(found, Agreement):
        return found
    assert isinstance(found, Exception)
    raise found
