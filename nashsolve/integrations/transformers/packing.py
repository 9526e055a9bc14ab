"""Several sequences packed into one row: which token belongs to which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor


def documents(given: Mapping[str, Any], batch: int, length: int, mask: Tensor | None) -> Tensor | None:
    """Number of every token's sequence within its row; None where every row is one sequence.

    A stack is told of packing as its attention is: by ``seq_idx`` or ``cu_seq_lens_q``, else by ``position_ids`` that
    do not go on from one real token to the next. A compiled graph breaks where any of them is given, and nowhere else.

    Parameters
    ----------
    given : arguments of the stack by name
    batch, length : of its tokens
    mask : (batch, length) bool, False for padding, which is skipped; or None

    Returns
    -------
    (batch, length) int64, from zero, or None; padding goes with the last sequence of its row
    """
    index, ends, positions = (given.get(name) for name in ("seq_idx", "cu_seq_lens_q", "position_ids"))
    if length < 2:
        return None
    if _fits(index, batch, length):
        return _changes(index.expand(batch, -1), 0, mask)
    if isinstance(ends, Tensor) and ends.ndim == 1 and batch == 1:
        at = torch.arange(length, device=ends.device)
        return _changes(torch.searchsorted(ends.contiguous(), at, right=True)[None], 0, mask)
    return _changes(positions.expand(batch, -1), 1, mask) if _fits(positions, batch, length) else None


@torch.compiler.disable
def _changes(number: Tensor, step: int, mask: Tensor | None) -> Tensor | None:
    """How often numbers of tokens (batch, length) have not grown by `step` from one real token to the next."""
    order = None if mask is None else real_first(mask)
    number = number if order is None else number.gather(1, order)
    new = torch.zeros_like(number, dtype=torch.bool)
    new[:, 1:] = number[:, 1:] - number[:, :-1] != step
    if mask is not None and order is not None:
        new &= mask.gather(1, order)
    if not bool(new.any()):
        return None
    found = new.cumsum(1)
    return found if order is None else torch.zeros_like(found).scatter(1, order, found)


def _fits(value: Any, batch: int, length: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == length and value.shape[0] in (1, batch)


def real_first(mask: Tensor) -> Tensor:
    """Order of a mask's tokens (batch, length) with padding last."""
    return torch.argsort((~mask).int(), dim=1, stable=True)
