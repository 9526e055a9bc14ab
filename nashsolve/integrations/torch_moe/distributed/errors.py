"""What goes wrong between processes: a rank that is gone, and ranks that were given different things."""

from __future__ import annotations

from typing import Any

from nashsolve.core.errors import InvalidProblem, NashSolveError


class RankFailed(NashSolveError):
    """A rank raised, is gone or did not come in time; every rank that is left raises this.

    ranks : those that failed, as far as the others could tell
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.ranks)


class RanksDisagree(RankFailed):
    """Ranks hold different settings, shapes or answers; `ranks` are those that differ from the majority."""


class InvalidShards(InvalidProblem):
    """Shards of `ranks` state no bargaining problem (NaN, Inf); every rank raises this alike, and may go on."""

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.ranks)
