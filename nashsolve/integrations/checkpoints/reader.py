"""Bytes of tensors by pread: few open files, exact lengths, and proof that no input changed meanwhile."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from .dtypes import ITEMSIZE
from .errors import CheckpointRefused
from .folder import Checkpoint, FileStamp
from .header import TensorInfo, show
from .paths import open_regular

MAX_OPEN = 8
"""Open input files of a thread at once; far below the usual limit of a process."""

Key = tuple[int, str]


class Reader:
    """Reads element ranges of the tensors of one or more checkpoints, from any thread; use as a context manager.

    A device fault comes as OSError, for nothing is memory-mapped.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self.checkpoints = tuple(checkpoints)
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._own = threading.local()
        self._tables: list[OrderedDict[Key, int]] = []

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        with self._lock:
            for table in self._tables:
                while table:
                    os.close(table.popitem()[1])

    def read(self, tensor: TensorInfo, start: int, count: int, source: int = 0) -> np.ndarray[Any, Any]:
        """`count` elements from element `start` on, as raw bytes.

        Raises
        ------
        OSError, CheckpointRefused
        """
        size = ITEMSIZE[tensor.dtype]
        buffer = np.empty(count * size, dtype=np.uint8)
        self.read_into(tensor, start, buffer.data, source)
        return buffer

    def read_into(self, tensor: TensorInfo, start: int, target: memoryview, source: int = 0) -> None:
        """Fill `target` with the bytes of the tensor from element `start` on."""
        descriptor = self._descriptor(source, tensor.file)
        place = tensor.start + start * ITEMSIZE[tensor.dtype]
        done = 0
        while done < len(target):
            got = os.preadv(descriptor, [target[done:]], place + done)
            if got <= 0:
                raise CheckpointRefused(f"{tensor.file} ended in the middle of tensor {show(tensor.name)}")
            done += got
        with self._lock:
            self.bytes_read += done

    def check_unchanged(self) -> None:
        """Every input file still is what it was when the headers were read.

        Raises
        ------
        CheckpointRefused
        """
        for source, checkpoint in enumerate(self.checkpoints):
            for stamp in checkpoint.files.values():
                for held in [table.get((source, stamp.name)) for table in self._tables]:
                    if held is not None:
                        _same(os.fstat(held), stamp)
                _same(os.stat(checkpoint.path / stamp.name, follow_symlinks=False), stamp)

    def _descriptor(self, source: int, file: str) -> int:
        key, table = (source, file), self._table()
        if key in table:
            table.move_to_end(key)
            return table[key]
        checkpoint = self.checkpoints[source]
        descriptor = open_regular(checkpoint.path / file)
        try:
            _same(os.fstat(descriptor), checkpoint.files[file])
        except CheckpointRefused:
            os.close(descriptor)
            raise
        while len(table) >= MAX_OPEN:
            os.close(table.popitem(last=False)[1])
        table[key] = descriptor
        return descriptor

    def _table(self) -> OrderedDict[Key, int]:
        """Open files of this thread, so that none closes what another one reads."""
        if not hasattr(self._own, "table"):
            self._own.table = OrderedDict()
            with self._lock:
                self._tables.append(self._own.table)
        found: OrderedDict[Key, int] = self._own.table
        return found


def _same(found: os.stat_result, stamp: FileStamp) -> None:
    now = (found.st_size, found.st_ino, found.st_mtime_ns)
    if now != (stamp.size, stamp.inode, stamp.mtime_ns):
        raise CheckpointRefused(
            f"{stamp.name} changed while it was being read; nothing that depends on it is published. Run again when "
            "nobody writes to the input."
        )
