"""The few calls that change the disk, in one place: every error leaves as OutputFailed with bytes and file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .errors import OutputFailed


@contextmanager
def told(action: str, path: Path, nbytes: int = 0) -> Iterator[None]:
    """Turn an operating system's error into one sentence."""
    try:
        yield
    except OutputFailed:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        size = f" of {nbytes} bytes" if nbytes else ""
        advice = "; free space and run the same command again" if full else "; run the same command again to resume"
        raise OutputFailed(
            error.errno or errno.EIO, f"cannot {action} {path.name}{size}: {error.strerror or error}{advice}"
        ) from error


def temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid4().hex}.part")


def create(path: Path, nbytes: int) -> int:
    """A new file with its space reserved."""
    with told("create", path, nbytes):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if nbytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                os.close(descriptor)
                raise
    return descriptor


def write_all(descriptor: int, data: memoryview | bytes, path: Path) -> None:
    """Every byte, however often the system writes less."""
    view = memoryview(data).cast("B")
    with told("write", path, len(view)):
        while view:
            view = view[os.write(descriptor, view) :]


def sync_and_close(descriptor: int, path: Path) -> None:
    """On the disk, not only in the cache."""
    with told("flush", path):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace(temporary_path: Path, path: Path) -> None:
    """Publish under the final name and make the name itself durable."""
    with told("publish", path):
        os.replace(temporary_path, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names of a folder on the disk."""
    with told("flush", folder):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(path: Path, content: bytes) -> None:
    """A small file: written aside, flushed, then renamed."""
    aside = temporary(path)
    try:
        descriptor = create(aside, 0)
        try:
            write_all(descriptor, content, path)
        except BaseException:
            os.close(descriptor)
            raise
        sync_and_close(descriptor, path)
        replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
