"""Gradients of base experts: summed over ranks that saw different batches, as columns of this rank's experts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import torch
from torch import Tensor

from .layout import Layout
from .partition import SlotShare
from .pieces import Pieces
from .team import Team


class Reducer:
    """Sums over replicas, and pieces back to columns.

    Parameters
    ----------
    layout : of the experts
    pieces : how base experts are cut; None where every rank keeps all columns of its experts
    divide : divisor of sums over all ranks
    """

    def __init__(self, layout: Layout, pieces: Pieces | None, divide: float) -> None:
        self._layout, self._pieces, self._divide = layout, pieces, divide

    def columns(self, piece: Mapping[str, Tensor], names: list[str]) -> list[Tensor]:
        """Mean gradient of one layer's base expert, over the columns that this rank's experts have.

        piece : name -> gradient of this rank's piece, summed over the shards
        """
        mean = dict(zip(names, self.sum_over_twins([piece[name] for name in names]), strict=True))
        if self._pieces is not None:
            for team, cut_names in groupby(names, key=lambda name: self._layout.peers[name]):
                if team is not None:
                    mean.update(self._unite(team, {name: mean[name] for name in cut_names}))
        return [mean[name] for name in names]

    def sum_over_twins(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum over the replicas, divided; one all_reduce."""
        twins = self._layout.twins
        if twins is None:
            return [tensor / self._divide for tensor in tensors]
        return self._summed(twins, tensors)

    def sum_over_all(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sum over all ranks, divided; one all_reduce."""
        return self._summed(self._layout.team, tensors)

    def _summed(self, team: Team, tensors: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        team.all_reduce(flat)
        flat.div_(self._divide)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _unite(self, team: Team, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pieces of ranks that share columns, gathered where shards cut the expert axis; one all_gather."""
        partition = self._layout.partition
        peers = partition.slots[next(iter(pieces))].peers
        by_rank = sorted(peers, key=lambda k: partition.shards[k])
        places = [{name: _lengths(partition.slots[name], k) for name in pieces} for k in by_rank]
        sizes = [{name: (place[name], *piece.shape[1:]) for name, piece in pieces.items()} for place in places]
        width = max(sum(torch.Size(size).numel() for size in place.values()) for place in sizes)
        own = torch.cat([piece.reshape(-1) for piece in pieces.values()])
        sent = own.new_zeros(width)
        sent[: own.numel()] = own
        received = own.new_empty(team.size, width)
        team.all_gather(received.view(-1), sent)
        found: dict[str, list[Tensor]] = {name: [] for name in pieces}
        for k in peers:
            row, at = received[by_rank.index(k)], 0
            for name, size in sizes[by_rank.index(k)].items():
                length = torch.Size(size).numel()
                found[name].append(row[at : at + length].view(size))
                at += length
        return {name: torch.cat(parts) for name, parts in found.items()}


def _lengths(share: SlotShare, place: int) -> int:
    start, stop = share.piece(place)
    return stop - start
