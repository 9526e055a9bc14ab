"""WikiText-103 as words: the published tokens, split at spaces, every line ending in <eos>."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from nashsolve.core.errors import InvalidProblem

from .sources import Source, column, rows

FILES = {"train": "wiki.train.tokens", "validation": "wiki.valid.tokens", "test": "wiki.test.tokens"}
END, UNKNOWN = "<eos>", "<unk>"


class Words:
    """The vocabulary of the training part, most frequent first.

    Parameters
    ----------
    source : a folder with wiki.train.tokens and its siblings, or rows with a column "text"
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        counts = Counter(self._words("train"))
        self.index = {
            word: k for k, (word, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        }
        self.index.setdefault(UNKNOWN, len(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def ids(self, part: str) -> Tensor:
        """Every token of a part, int64."""
        unknown = self.index[UNKNOWN]
        return torch.tensor([self.index.get(word, unknown) for word in self._words(part)])

    def _words(self, part: str) -> Iterator[str]:
        for line in _lines(self.source, part):
            yield from line.split()
            yield END


def _lines(source: Source, part: str) -> Iterator[str]:
    if part not in FILES:
        raise InvalidProblem(f"part is {part!r}; known are {', '.join(FILES)}")
    file = None if source.folder is None else Path(source.folder) / FILES[part]
    if file is not None and file.exists():
        with file.open(encoding="utf-8") as stream:
            yield from stream
        return
    for row in rows(source, part):
        yield column(row, "text", "WikiText-103")


def blocks(ids: Tensor, batch: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`batch` streams through a text side by side: consecutive blocks (batch, length) and the tokens that follow."""
    many = (len(ids) - 1) // batch
    if many < length:
        raise InvalidProblem(f"{len(ids)} tokens do not make {batch} streams of {length}")
    x, y = (ids[k : k + many * batch].view(batch, many) for k in (0, 1))
    for start in range(0, many - length + 1, length):
        yield x[:, start : start + length], y[:, start : start + length]
