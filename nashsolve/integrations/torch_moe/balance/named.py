"""The balance losses by name, read off a router's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from ..router_output import RouterOutput
from ..strict import nearest
from . import losses


def balance_losses(output: RouterOutput, coefficients: Mapping[str, float]) -> dict[str, Tensor]:
    """Every named loss of a router's output, multiplied by its coefficient.

    Parameters
    ----------
    output : RouterOutput
    coefficients : name -> coefficient >= 0; the names are those of `BALANCE_LOSSES`

    Returns
    -------
    dict name -> scalar

    Raises
    ------
    InvalidProblem
        For an unknown name, a coefficient that is negative or not finite, or a loss that the router cannot give.
    """
    found = {}
    for name, coefficient in coefficients.items():
        if name not in BALANCE_LOSSES:
            raise InvalidProblem(f"balance has no loss {name!r}; {nearest(str(name), list(BALANCE_LOSSES))}")
        if not math.isfinite(coefficient) or coefficient < 0:
            raise InvalidProblem(f"balance[{name!r}] is {coefficient}; it must be finite and not negative")
        found[name] = coefficient * BALANCE_LOSSES[name](output)
    return found


def _noise(o: RouterOutput, name: str) -> tuple[Tensor, Tensor]:
    if o.noisy_logits is None or o.noise_std is None:
        raise InvalidProblem(
            f"balance {name!r} needs a router with noise, since it is the chance to be chosen under fresh noise: "
            "use noisy_topk, or set the router's option noise"
        )
    return o.noisy_logits, o.noise_std


def _load(o: RouterOutput) -> Tensor:
    noisy, std = _noise(o, "load")
    return losses.load_loss(o.logits, noisy, std, o.topk_index.shape[-1], o.row_mask)


def _load_importance(o: RouterOutput, literal: bool) -> Tensor:
    noisy, std = _noise(o, "load_importance_literal" if literal else "load_importance")
    clean = o.logits.softmax(dim=-1)
    return losses.load_importance_loss(clean, o.logits, noisy, std, o.topk_index, o.row_mask, literal)


def _sequence(o: RouterOutput) -> Tensor:
    if o.n_sequences is None:
        raise InvalidProblem("balance 'sequence' needs hidden states of shape (batch, length, d)")
    return losses.sequence_loss(o.probs, o.topk_index, o.n_sequences, o.row_mask)


BALANCE_LOSSES: dict[str, Callable[[RouterOutput], Tensor]] = {
    "switch": lambda o: losses.switch_loss(o.probs, o.topk_index, o.row_mask),
    "switch_every_choice": lambda o: losses.switch_loss(o.probs, o.topk_index, o.row_mask, every_choice=True),
    "fastmoe": lambda o: losses.fastmoe_loss(o.logits, o.topk_index, o.row_mask, o.balance_temperature),
    "z": lambda o: losses.z_loss(o.logits, o.row_mask),
    "importance": lambda o: losses.importance_loss(o.dense(), o.row_mask),
    "load": _load,
    "load_importance": lambda o: _load_importance(o, literal=False),
    "load_importance_literal": lambda o: _load_importance(o, literal=True),
    "sequence": _sequence,
}
"""Name -> loss of a RouterOutput, without its coefficient."""
