"""Which process does which unit: locks that the operating system takes back when their owner dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claimed(folder: Path, key: str, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds `key` while the block runs.

    Parameters
    ----------
    folder : where the locks lie
    key : any text
    wait : True waits for another owner instead of giving False
    """
    if fcntl is None:
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / sha256(key.encode()).hexdigest()[:24]).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
