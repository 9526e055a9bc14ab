"""Expert-sized vectors shared out over the ranks of a replica: gathered to whole ones, and summed back to shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..experts import Expert
from .partition import Partition
from .team import Team


class Pieces:
    """How a base expert's tensors are cut over the ranks of a replica, every entry on one rank.

    Parameters
    ----------
    partition : of the experts
    shapes : slot -> shape of one whole expert's tensor
    team : the replica's ranks; None for one rank, which holds everything
    """

    def __init__(self, partition: Partition, shapes: Mapping[str, tuple[int, ...]], team: Team | None) -> None:
        self.shapes, self.team, self.partition = dict(shapes), team, partition
        # A process group counts its members by their rank, a partition by what they hold.
        order = sorted(range(len(partition.shards)), key=lambda k: partition.shards[k])
        self.places = [{name: share.piece_box(k) for name, share in partition.slots.items()} for k in order]
        self.mine = self.places[order.index(partition.place)]
        lengths = [sum(torch.Size(size).numel() for _, size in place.values()) for place in self.places]
        self._width = max(lengths)

    def of_whole(self, whole: Expert) -> Expert:
        """This rank's piece of a whole expert, views."""
        return {name: narrow(whole[name], *self.mine[name]) for name in self.shapes}

    def of_columns(self, columns: Expert) -> Expert:
        """This rank's piece of the columns that its experts have, views."""
        place, found = self.partition.place, {}
        for name, tensor in columns.items():
            start, stop = self.partition.slots[name].piece(place)
            found[name] = tensor[start:stop]
        return found

    def whole(self, piece: Expert) -> Expert:
        """The whole expert, from every rank's piece; one all_gather."""
        if self.team is None:
            return {name: piece[name] for name in self.shapes}
        model = next(iter(piece.values()))
        sent = model.new_zeros(self._width)
        _fill(sent, [piece[name] for name in self.shapes])
        received = model.new_empty(self._width * self.team.size)
        self.team.all_gather(received, sent)
        found = {name: model.new_empty(shape) for name, shape in self.shapes.items()}
        for place, row in zip(self.places, received.view(self.team.size, -1), strict=True):
            at = 0
            for name in self.shapes:
                target = narrow(found[name], *place[name])
                target.copy_(row[at : at + target.numel()].view(target.shape))
                at += target.numel()
        return found

    def reduce(self, whole: Mapping[str, Tensor | None], like: Tensor) -> Expert:
        """This rank's piece of the sum of the ranks' whole experts (None for zero); one reduce_scatter."""
        assert self.team is not None
        sent = like.new_zeros(self.team.size, self._width)
        for place, row in zip(self.places, sent, strict=True):
            at = 0
            for name in self.shapes:
                offset, size = place[name]
                length, given = torch.Size(size).numel(), whole[name]
                if given is not None:
                    row[at : at + length].view(size).copy_(narrow(given, offset, size))
                at += length
        received = like.new_empty(self._width)
        self.team.reduce_scatter(received, sent.view(-1))
        found, at = {}, 0
        for name in self.shapes:
            size = self.mine[name][1]
            found[name] = received[at : at + torch.Size(size).numel()].view(size)
            at += found[name].numel()
        return found


def narrow(tensor: Tensor, offset: Sequence[int], size: Sequence[int]) -> Tensor:
    """The box of a tensor, a view."""
    return tensor[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))]


def _fill(row: Tensor, parts: Sequence[Tensor]) -> None:
    at = 0
    for part in parts:
        row[at : at + part.numel()].view(part.shape).copy_(part)
        at += part.numel()


def gather(pieces: Pieces, piece: Expert, dtype: torch.dtype | None = None) -> Expert:
    """The whole expert, differentiable: the gradient of a piece is the sum of all ranks' gradients.

    dtype : in which it travels and is handed out; None: as it is
    """
    if pieces.team is None:
        return {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in piece.items()}
    names = list(pieces.shapes)
    return dict(zip(names, _Gather.apply(pieces, dtype, *(piece[name] for name in names)), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pieces: Pieces, dtype: torch.dtype | None, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.pieces, ctx.like = pieces, given[0].new_empty(0)
        ctx.set_materialize_grads(False)
        sent = given if dtype is None else [tensor.to(dtype) for tensor in given]
        return tuple(pieces.whole(dict(zip(pieces.shapes, sent, strict=True))).values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        found = ctx.pieces.reduce(dict(zip(ctx.pieces.shapes, gradients, strict=True)), ctx.like)
        return None, None, *found.values()
