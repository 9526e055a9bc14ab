"""Groups of processes shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.torch_moe.distributed.ranks import Ranks


@pytest.fixture(scope="session")
def two() -> Iterator[Ranks]:
    """Two ranks."""
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def four() -> Iterator[Ranks]:
    """Four ranks."""
    ranks = Ranks(4)
    yield ranks
    ranks.close()
