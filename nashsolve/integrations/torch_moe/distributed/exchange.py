"""Experts on their way between ranks: from some whole experts on every rank to some columns of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .partition import cut
from .team import Team

Window = tuple[int, int]
"""Start and stop along the first axis of one expert."""


def rounds_of(window: Window, inner: int, n: int, peers: int, itemsize: int, room: int) -> list[list[Window]]:
    """For every round, what each peer receives, in the order of their team; sent and received, it fits into `room`.

    Parameters
    ----------
    window : columns to exchange altogether
    inner : entries behind one index of the first axis
    n : experts
    peers : ranks that share them
    itemsize : bytes of an entry
    room : bytes
    """
    length = window[1] - window[0]
    pieces = [tuple(window[0] + at for at in cut(length, k, peers)) for k in range(peers)]
    longest = max(stop - start for start, stop in pieces)
    # A rank sends its experts' columns to all peers, and receives all experts' columns of its own.
    step = max(1, room // (2 * n * inner * itemsize))
    return [
        [(min(start + at, stop), min(start + at + step, stop)) for start, stop in pieces]
        for at in range(0, longest, step)
    ]


def exchange(
    local: Tensor, rows: Sequence[tuple[int, int]], team: Team, rounds: Sequence[Sequence[Window]]
) -> Iterator[tuple[Window, list[Tensor]]]:
    """All experts' columns of this rank, one round after another.

    Parameters
    ----------
    local : (n, ...) this rank's experts
    rows : which experts every peer holds, in the order of the team
    team : the peers
    rounds : from `rounds_of`

    Yields
    ------
    window of this rank in this round; a tensor (columns, ...) for every expert
    """
    inner = torch.Size(local.shape[2:]).numel()
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    for windows in rounds:
        given = [local[:, start:stop].reshape(-1) for start, stop in windows]
        start, stop = windows[team.rank]
        width = (stop - start) * inner
        into = [(last - first) * width for first, last in rows]
        out = local.new_empty(sum(into))
        team.all_to_all(out, torch.cat(given), into, [part.numel() for part in given])
        parts = out.split(into)
        shape = (stop - start, *local.shape[2:])
        held = [parts[k].view(rows[k][1] - rows[k][0], *shape) for k in order]
        yield (start, stop), [row for part in held for row in part]
