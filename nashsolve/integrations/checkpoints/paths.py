"""File names from strangers: which of them are plain names inside a folder, on every operating system."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import CheckpointRefused
from .header import show

_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}
_BAD = set('/\\:*?"<>|')

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".h5", ".msgpack", ".gguf")
"""Suffixes of weight files that are not safetensors; they are refused before they are opened."""


def check_name(name: object, where: str) -> str:
    """A plain file name under POSIX and Windows rules, or CheckpointRefused."""
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "replace")) > 255:
        raise CheckpointRefused(f"{where}: {show(name)} is not a file name")
    plain = name.isprintable() and not _BAD & set(name) and name.strip(" .") == name.rstrip(" .") == name.strip()
    if not plain or name in (".", "..") or name.startswith(".") or name.split(".")[0].lower() in _DEVICES:
        raise CheckpointRefused(f"{where}: {show(name)} is not a plain file name inside the folder")
    if not name.endswith(".safetensors"):
        raise CheckpointRefused(f"{where}: {show(name)} is not a .safetensors file; nothing else is opened")
    return name


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file that is no link; the caller closes it.

    Raises
    ------
    CheckpointRefused, OSError
    """
    if path.is_symlink():
        raise CheckpointRefused(f"{show(path.name)[1:-1]} is a link; give the folder that holds the file itself")
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise CheckpointRefused(f"{show(path.name)[1:-1]} is missing in {path.parent.name}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointRefused(f"{show(path.name)[1:-1]} is not a regular file")
    return descriptor
