"""Grams summed over the ranks by one all_reduce, with everything that the ranks must agree on in the same buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..domain import DomainGram
from ..experts import Expert
from .errors import InvalidShards, RankFailed
from .layout import Layout
from .message import Received, pack, unpack
from .parts import Held
from .shard_gram import PartialGram
from .team import Team, digest


class SummedGram:
    """The Gram of domain vectors over all ranks: the same bytes on every rank.

    Parameters
    ----------
    layout : of the experts
    products : as `gram_of_differences` takes it
    room : bytes for experts on their way
    """

    def __init__(self, layout: Layout, products: str, room: int) -> None:
        self._layout, self._products, self._room = layout, products, room

    def find(
        self,
        layers: Sequence[Mapping[str, Held]],
        names: Sequence[str],
        base: Expert,
        where: str,
        agreed: dict[str, Any],
    ) -> DomainGram:
        """Gram of the experts of one or several layers, over some slots.

        Parameters
        ----------
        layers : what this rank holds of each
        names : slots
        base : columns of the base expert that this rank's experts have
        where : for messages
        agreed : what all ranks must have in common, name -> value

        Raises
        ------
        InvalidShards
            On every rank, where experts of some rank are not finite.
        RankFailed, RanksDisagree
        """
        device = next(iter(base.values())).device
        part = PartialGram(self._layout, len(layers), self._products, self._room, device)
        part.add(layers, names, base)
        found = sum_up(self._layout.team, [part], agreed)
        gram = found.grams[0].numpy()
        check_finite_everywhere(self._layout.team, gram, part.gram, where)
        return DomainGram(gram, found.error)


def sum_up(team: Team, parts: Sequence[PartialGram], agreed: dict[str, Any]) -> Received:
    """One all_reduce for all parts, which have the same size; every rank raises alike where one could not add its own.

    agreed : what all ranks must have in common, name -> value
    """
    failure = next((part.failure for part in parts if part.failure is not None), None)
    grams = torch.stack([part.gram for part in parts])
    error = max(part.error for part in parts)
    values = pack(grams, error, failure is not None, digest(*agreed.values()), grams.device)
    team.all_reduce(values)
    found = unpack(values, tuple(grams.shape), team.size)
    if found.failed:
        said = team.share(None if failure is None else f"{type(failure).__name__}: {failure}")
        failed = {rank: text for rank, text in zip(team.ranks, said, strict=True) if text is not None}
        text = "; ".join(f"rank {rank} failed: {why}" for rank, why in failed.items())
        raise RankFailed(text, tuple(failed)) from failure
    if not found.agreed:
        team.check_same(agreed)
    return found


def check_finite_everywhere(team: Team, gram: np.ndarray, own: torch.Tensor, where: str) -> None:
    """Raise InvalidShards on every rank for a summed Gram that is not finite, naming expert and ranks."""
    bad = np.flatnonzero(~np.isfinite(np.diagonal(gram)))
    if len(bad):
        said = team.share(bool(torch.isfinite(own).all()))
        ranks = tuple(rank for rank, fine in zip(team.ranks, said, strict=True) if not fine)
        who = f"on rank {', '.join(map(str, ranks))}" if ranks else "in the sum over the ranks"
        raise InvalidShards(
            f"expert {bad[0]} or the base expert of {where} holds NaN or Inf (or overflows) {who}", ranks
        )
