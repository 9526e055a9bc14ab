"""Who holds what, without processes: boxes of many ranks, exchanges in rounds, and the buffer of a solve."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

import torch
from hypothesis import given
from hypothesis import strategies as st

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe.distributed.exchange import rounds_of
from nashsolve.integrations.torch_moe.distributed.message import pack, unpack
from nashsolve.integrations.torch_moe.distributed.partition import cut, make_partition
from nashsolve.integrations.torch_moe.distributed.parts import Box
from nashsolve.integrations.torch_moe.distributed.pieces import Pieces

WHOLE = {"up": (6, (8, 5))}


def table(*boxes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> list[dict[str, Box]]:
    return [{"up": Box(*box)} for box in boxes]


def covered(held: list[dict[str, Box]]) -> np.ndarray:
    """How often the kept pieces of all ranks hold each entry of a base expert."""
    count = np.zeros(WHOLE["up"][1], dtype=int)
    for rank in range(len(held)):
        offset, size = Pieces(make_partition(held, rank, WHOLE), {"up": (8, 5)}, None).mine["up"]
        count[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))] += 1
    return count


@pytest.mark.parametrize(
    ("held", "copies"),
    [
        (table(((0, 6), (0, 0), (3, 5)), ((0, 6), (3, 0), (5, 5))), 1),
        (table(((0, 4), (0, 0), (8, 5)), ((4, 6), (0, 0), (8, 5)), ((6, 6), (0, 0), (8, 5))), 1),
        (table(*[((0, 6), (0, 0), (8, 5))] * 3), 3),
        (table(*[((r, r + 3), (0, c), (8, w)) for r in (0, 3) for c, w in ((0, 2), (2, 3))]), 1),
        (table(*[((0, 6), (c, 0), (4, 5)) for _ in range(2) for c in (0, 4)]), 2),
        (table(*[((0, 6), (c, 0), (4, 5)) for c in (0, 4) for _ in range(2)]), 2),
    ],
    ids=["columns", "experts", "replicas", "both", "hybrid", "hybrid-turned"],
)
def test_pieces_of_a_replica_cover_a_base_expert_once(held: list[dict[str, Box]], copies: int) -> None:
    partition = make_partition(held, 0, WHOLE)
    assert len(partition.replicas) == copies and (covered(held) == copies).all()
    assert sorted(r for replica in partition.replicas for r in replica) == list(range(len(held)))
    for rank in range(len(held)):
        found = make_partition(held, rank, WHOLE)
        assert found.shards[found.place] == rank and rank in found.twins
        assert all(held[twin] == held[rank] for twin in found.twins)


@pytest.mark.parametrize(
    "held",
    [
        table(((0, 6), (0, 0), (3, 5)), ((0, 6), (4, 0), (4, 5))),
        table(((0, 6), (0, 0), (5, 5)), ((0, 6), (3, 0), (5, 5))),
        table(((0, 3), (0, 0), (8, 5)), ((2, 6), (0, 0), (8, 5))),
        table(((0, 3), (0, 0), (8, 5)), ((4, 6), (0, 0), (8, 5))),
        table(((0, 6), (0, 0), (4, 5)), ((0, 6), (0, 0), (4, 5)), ((0, 6), (4, 0), (4, 5))),
        table(((6, 6), (0, 0), (8, 5))),
    ],
    ids=["a-gap", "an-overlap", "an-expert-twice", "an-expert-missing", "half-a-replica", "nothing"],
)
def test_what_is_no_partition_is_refused(held: list[dict[str, Box]]) -> None:
    with pytest.raises(InvalidProblem, match=r"shards|experts"):
        make_partition(held, 0, WHOLE)


@given(
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 4000),
)
def test_rounds_cover_the_window_within_the_room(
    start: int, length: int, inner: int, n: int, peers: int, room: int
) -> None:
    rounds = rounds_of((start, start + length), inner, n, peers, 4, room)
    for k in range(peers):
        piece = [start + at for at in cut(length, k, peers)]
        got = [column for windows in rounds for column in range(*windows[k])]
        assert got == list(range(*piece))
    widest = max((stop - first for windows in rounds for first, stop in windows), default=0)
    assert widest <= 1 or 2 * widest * inner * n * 4 <= room


@given(st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.floats(0, 1e-3)), min_size=1, max_size=6))
def test_the_buffer_tells_whether_ranks_agree(said: list[tuple[bytes, float]]) -> None:
    grams = torch.arange(8, dtype=torch.float64).view(2, 2, 2)
    total = sum(pack(grams, error, False, words, torch.device("cpu")) for words, error in said)
    assert isinstance(total, torch.Tensor)
    found = unpack(total, (2, 2, 2), len(said))
    assert found.agreed == (len({words for words, _ in said}) == 1)
    assert torch.equal(found.grams, len(said) * grams) and found.failed == 0
    largest = max(error for _, error in said)
    assert largest * (1 - 1e-12) <= found.error <= 1.7 * largest + 1e-15


def test_the_buffer_counts_ranks_that_failed() -> None:
    grams = torch.zeros(1, 2, 2, dtype=torch.float64)
    total = sum(pack(grams, 0.0, bad, b"12345678", torch.device("cpu")) for bad in (True, False, True))
    assert isinstance(total, torch.Tensor)
    assert unpack(total, (1, 2, 2), 3).failed == 2
