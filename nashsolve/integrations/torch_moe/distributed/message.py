r"""The one buffer that a solve sends: a Gram, its error, and what all ranks must agree on, for one all_reduce.

Only sums travel. The error is sent as its 16th power, because :math:`(\sum_r e_r^{16})^{1/16}` is at least the largest
:math:`e_r` and at most 1.7 times as large for 4,096 ranks. A fingerprint is sent as four 16-bit words and their
squares: ranks hold the same word exactly where :math:`R\sum w^2 = (\sum w)^2`, and these sums are exact in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_POWER = 16
_WORDS = 4
_TAIL = 2 + 2 * _WORDS


@dataclass(frozen=True)
class Received:
    """What the sum says: the same on every rank.

    grams : (k, n, n) float64 on the host
    error : bound of the relative errors of every rank's part
    failed : ranks that could not compute their part
    agreed : whether all ranks sent the same fingerprint
    """

    grams: Tensor
    error: float
    failed: int
    agreed: bool


def pack(grams: Tensor, error: float, failed: bool, fingerprint: bytes, device: torch.device) -> Tensor:
    """One float64 vector: k Grams (k, n, n), and 10 numbers."""
    words = [float(int.from_bytes(fingerprint[2 * k : 2 * k + 2], "little")) for k in range(_WORDS)]
    tail = [error**_POWER, float(failed), *words, *(w * w for w in words)]
    found = torch.empty(grams.numel() + _TAIL, dtype=torch.float64, device=device)
    found[:-_TAIL].copy_(grams.reshape(-1))
    found[-_TAIL:].copy_(torch.tensor(tail, dtype=torch.float64))
    return found


def unpack(values: Tensor, shape: tuple[int, ...], ranks: int) -> Received:
    """The sum over the ranks; one transfer to the host."""
    here = values.cpu()
    tail = here[-_TAIL:].tolist()
    sums, squares = tail[2 : 2 + _WORDS], tail[2 + _WORDS :]
    agreed = all(ranks * int(q) == int(s) ** 2 for s, q in zip(sums, squares, strict=True))
    # Adding the ranks' Grams rounds each entry once for every rank.
    error = tail[0] ** (1 / _POWER) + ranks * 2.0**-53
    return Received(here[:-_TAIL].reshape(shape), error, int(tail[1]), agreed)
