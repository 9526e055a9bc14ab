"""What merging remembers between the calls of generation, beside the keys and values of attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nashsolve.core.errors import NashSolveError

CACHES = ("cache", "past_key_values")
"""How a stack calls the cache that it takes and gives back: since transformers 5.24, and before."""
_ATTRIBUTE = "_nashsolve_memory"
_ROWS = {
    "reorder_cache": lambda t, rows: t.index_select(0, rows.to(t.device)),
    "batch_select_indices": lambda t, rows: t[rows.to(t.device)],
    "batch_repeat_interleave": lambda t, times: t.repeat_interleave(times, dim=0),
}
"""Methods of a cache that change its rows, and what they mean for a tensor with one row a sequence."""


@dataclass
class Memory:
    """State of one stack for the sequences of one cache.

    Attributes
    ----------
    tokens : columns that the cache holds
    begun : (batch,) int64, real tokens in the current segment, or None before the first call
    looks : layer -> (batch, d), by what the current segment (or the sequence) is routed
    sums : layer -> (batch, d), sum of the current segment's real tokens
    """

    tokens: int = 0
    begun: Tensor | None = None
    looks: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)

    def follow(self, change: Any, argument: Any) -> None:
        """Change the rows as the cache changed its own."""
        if self.begun is not None:
            self.begun = change(self.begun, argument)
        for part in (self.looks, self.sums):
            for layer, rows in part.items():
                part[layer] = change(rows, argument)


def recall(cache: Any, stack: str) -> Memory:
    """The memory that goes with a cache; a new one for an empty cache.

    Raises
    ------
    NashSolveError
        For a cache that holds tokens which this model did not see, or no longer holds some that it saw.
    """
    length = 0 if cache is None else int(cache.get_seq_length())
    found = getattr(cache, _ATTRIBUTE, {}).get(stack)
    if length == 0:
        return Memory()
    if found is None or found.tokens != length:
        seen = 0 if found is None else found.tokens
        raise NashSolveError(
            f"the cache holds {length} tokens, merging has seen {seen} of them: it cannot continue from a cache that "
            "another model filled or that was cropped; pass the whole sequence, or merge per token"
        )
    memory: Memory = found
    return memory


def keep(cache: Any, stack: str, memory: Memory) -> None:
    """Let the memory go with the cache, and follow its changes of rows (beam search)."""
    kept = getattr(cache, _ATTRIBUTE, None)
    if kept is None:
        kept = {}
        setattr(cache, _ATTRIBUTE, kept)
        for name, change in _ROWS.items():
            if hasattr(cache, name):
                setattr(cache, name, _followed(getattr(cache, name), kept, change))
    kept[stack] = memory


def _followed(method: Any, kept: dict[str, Memory], change: Any) -> Any:
    def followed(argument: Any) -> Any:
        result = method(argument)
        with torch.no_grad():
            for memory in kept.values():
                memory.follow(change, argument)
        return result

    return followed
