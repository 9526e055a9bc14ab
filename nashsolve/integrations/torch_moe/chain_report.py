"""What one step of a chain was, as a plain record."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bargain import Agreement
from .chain_config import ChainConfig
from .domain import DomainGram


def link_record(
    config: ChainConfig,
    layer: int,
    group: str,
    agreement: Agreement,
    solved: int,
    domain: DomainGram | None,
    move: float,
) -> dict[str, Any]:
    """The record of one link, ready for JSON; see `BaseExpertChain.report`.

    Parameters
    ----------
    config : of the chain
    layer, group : of the link
    agreement, solved : what was agreed on, and at which layer
    domain : Gram of this layer, None where it was not needed
    move : length of the base expert's move
    """
    c = agreement.coefficients
    share = np.abs(c) / max(np.abs(c).sum(), 1e-300)
    total = float(c.sum())
    return {
        "layer": layer,
        "group": group,
        "players": len(c),
        "resolved": solved == layer and config.bargain != "uniform",
        **dict.fromkeys(("gains", "margin", "gap", "certificate")),
        **agreement.record,
        "policy": agreement.policy,
        "alpha": None if agreement.alpha is None else [_finite(a) for a in agreement.alpha],
        "coefficients": c.tolist(),
        "sum": total,
        "entropy": float(-(share * np.log(np.maximum(share, 1e-300))).sum()),
        "utilities": None if domain is None else (domain.gram @ c).tolist(),
        "norms": None if domain is None else domain.norms.tolist(),
        "cosines": None if domain is None else domain.cosines.tolist(),
        "step_norm": None if domain is None else float(np.sqrt(max(c @ domain.gram @ c, 0.0))),
        "base_move": move,
        "gamma": config.gamma,
        "h": config.gamma * total,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
