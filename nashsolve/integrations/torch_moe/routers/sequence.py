"""One decision for a whole sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Rows
from .pooled import PooledRouter


class SequenceRouter(PooledRouter):
    r"""Routes the mean of a sequence's tokens: one row of weights for each sequence.

    .. math:: s_b = \mathrm{router}\Big(\frac{1}{T_b} \sum_{t \in b} x_t\Big)

    It sees the whole sequence, later tokens too: for encoders, images and classification, not for causal models.

    Parameters
    ----------
    inner, norm, count_padding : as in PooledRouter

    Notes
    -----
    norm=True is what SMEAR does [smear2023]_; count_padding=True and no norm is CAMEx's code [camex2025]_.
    """

    level = "sequence"

    def rows(self, hidden: Tensor, context: dict[str, Any]) -> Rows:
        """One mean a sequence."""
        mask = context.get("token_mask")
        return Rows(
            self.mean(hidden, mask),
            mask=None if mask is None else mask.any(dim=-1),
            ids=context.get("input_ids"),
            ids_mask=None if self.count_padding else mask,
            generator=context.get("generator"),
            n_sequences=hidden.shape[0],
        )
