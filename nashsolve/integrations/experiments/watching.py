"""The progress bar of a run, read from its folder, whoever works there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from .book import PROGRESS, Book

PAUSE = 0.5
"""Seconds between two looks."""


@contextmanager
def watched(book: Book, title: str, show: bool) -> Iterator[None]:
    """Show finished units and what is under way while the block runs."""
    if not show:
        yield
        return
    from tqdm import tqdm

    over = Event()
    bar = tqdm(
        desc=title, unit="unit", disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} {postfix}"
    )

    def look() -> None:
        while not over.wait(PAUSE):
            _update(bar, book)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _update(bar, book)
        bar.close()


def _update(bar: object, book: Book) -> None:
    units = len(book.units())
    left = book.left()
    doing = {}
    for file in sorted((book.folder / PROGRESS).glob("*")):
        try:
            told = json.loads(file.read_text())
        except (OSError, json.JSONDecodeError):
            continue
        if told["key"] in left:
            doing[told["key"]] = told["share"]
    bar.total = units  # type: ignore[attr-defined]
    bar.n = units - len(left) + sum(doing.values())  # type: ignore[attr-defined]
    bar.set_postfix_str(", ".join(doing))  # type: ignore[attr-defined]
