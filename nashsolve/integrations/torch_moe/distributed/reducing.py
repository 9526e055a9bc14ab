"""Gradients of base experts: summed over ranks that saw different batches, as columns of this rank's experts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .layout import Layout
from .partition import cut, first
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
        return [self._unite(name, mean[name]) for name in names]

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

    def _unite(self, name: str, piece: Tensor) -> Tensor:
        """Pieces of the ranks that share columns, gathered where shards cut the expert axis."""
        layout, team = self._layout, self._layout.peers[name]
        share = layout.partition.slots[name]
        if self._pieces is None or team is None:
            return piece
        length = first(share.boxes[layout.partition.place].size)
        widths = [stop - start for start, stop in (cut(length, k, team.size) for k in range(team.size))]
        sent = piece.new_zeros(max(widths), *piece.shape[1:])
        sent[: piece.shape[0]] = piece
        received = piece.new_empty(team.size, *sent.shape)
        team.all_gather(received.view(-1), sent.view(-1))
        by_rank = sorted(share.peers, key=lambda k: layout.partition.shards[k])
        parts = [received[by_rank.index(place), :width] for place, width in zip(share.peers, widths, strict=True)]
        return torch.cat(parts)
