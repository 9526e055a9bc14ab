"""One weight file: bytes go to a side name through a bounded queue, are read back, and only then get their name."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import disk
from .errors import MemoryExceeded, OutputFailed
from .folder import read_header
from .outputs import OutFile

_WAITING = 8
"""Chunks between computing and writing; a slow disk slows the computation, it never fills the memory."""


class FileWriter:
    """Writes an `OutFile`; as a context manager it removes the side file unless `finish` was reached."""

    def __init__(self, folder: Path, file: OutFile) -> None:
        self.file = file
        self.final = folder / file.name
        self.aside = disk.temporary(self.final)
        self._descriptor = disk.create(self.aside, file.nbytes)
        self._queue: queue.Queue[bytes | np.ndarray[Any, Any] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._hash = hashlib.sha256()
        self._written = 0
        self._finished = False
        self._thread = threading.Thread(target=self._work, name=f"write {file.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._descriptor)
            self.aside.unlink(missing_ok=True)
            raise MemoryExceeded(f"cannot write {file.name} in the background: {error}") from None

    def __enter__(self) -> FileWriter:
        self.put(self.file.header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._finished:
            self._stop()
            self.aside.unlink(missing_ok=True)

    def put(self, data: bytes | np.ndarray[Any, Any]) -> None:
        """Hand over the next bytes; an earlier failure to write is raised here."""
        while True:
            self._raise()
            try:
                self._queue.put(data, timeout=0.2)
                return
            except queue.Full:
                continue

    def finish(self) -> str:
        """Flush, read back, compare; returns the sha256 of what is on the disk under the side name.

        Raises
        ------
        OutputFailed
        """
        self._stop(close=False)
        try:
            self._raise()
            if self._written != self.file.nbytes:
                raise OutputFailed(0, f"{self.final.name} has {self._written} bytes instead of {self.file.nbytes}")
        except BaseException:
            os.close(self._descriptor)
            raise
        disk.sync_and_close(self._descriptor, self.final)
        with disk.told("read back", self.final):
            found = sha256_of(self.aside)
        if found != self._hash.hexdigest():
            raise OutputFailed(0, f"{self.final.name} reads back other bytes than were written: the disk is failing")
        read_header(self.aside)
        self._finished = True
        return found

    def _stop(self, close: bool = True) -> None:
        if self._thread.is_alive():
            while self._error is None:
                try:
                    self._queue.put(None, timeout=0.2)
                    break
                except queue.Full:
                    continue
            self._thread.join()
        if close:
            try:
                os.close(self._descriptor)
            except OSError:
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (data := self._queue.get()) is not None:
                view = memoryview(data if isinstance(data, bytes) else data.reshape(-1).data).cast("B")
                self._hash.update(view)
                disk.write_all(self._descriptor, view, self.final)
                self._written += len(view)
        except BaseException as error:
            self._error = error


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
