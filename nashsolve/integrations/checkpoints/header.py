"""The header of a safetensors file, checked as if an enemy had written it."""

from __future__ import annotations

import gc
import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from .dtypes import ITEMSIZE, STORAGE
from .errors import CheckpointRefused

MAX_HEADER = 100_000_000
MAX_TENSORS = 200_000
MAX_DIMS = 8
MAX_NAME = 512
MAX_INTEGER = 2**53

_FIELDS = {"dtype", "shape", "data_offsets"}
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


class TensorInfo(NamedTuple):
    """Where one tensor lies: `start` counts bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    file: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A whole header: tensors in file order, metadata, and where the data begin."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    data_start: int


def parse_header(length_field: bytes, read_text: Any, file_size: int, file: str) -> Header:
    """Check and parse a header.

    Parameters
    ----------
    length_field : the first bytes of the file, eight or fewer
    read_text : called with the length of the header once that is known to be sane; returns its bytes
    file_size : bytes of the file
    file : its name, for messages

    Raises
    ------
    CheckpointRefused
        With what is wrong and, where there is one, the tensor.
    """
    if len(length_field) < 8:
        _refuse(file, f"it has {file_size} bytes, too few for a safetensors file")
    length = int.from_bytes(length_field, "little")
    if length < 2 or length > MAX_HEADER or length > file_size - 8:
        if length_field.startswith(_PICKLES):
            _refuse(file, "it is a pickle or a zip archive, which can run code; only safetensors files are read")
        limit = min(MAX_HEADER, file_size - 8)
        _refuse(file, f"its header claims {length} bytes; between 2 and {limit} are possible")
    raw = read_text(length)
    if len(raw) != length:
        _refuse(file, f"its header ends after {len(raw)} of {length} bytes")
    with _no_collection():
        entries = _load(raw, file)
        metadata = _metadata(entries.pop("__metadata__", {}), file)
        tensors = sorted(_tensors(entries, 8 + length, file), key=lambda t: (t.start, t.nbytes))
        _check_cover(tensors, 8 + length, file_size, file)
    return Header(tuple(tensors), metadata, 8 + length)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A header is a million small objects and no cycle: looking for garbage among them takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def show(name: object) -> str:
    """A name from a file for messages: control characters escaped, long ones cut."""
    text = ascii(name)
    return text if len(text) <= 120 else f"{text[:100]}...' ({len(text)} characters)"


def _load(raw: bytes, file: str) -> dict[str, Any]:
    """JSON with every leniency of the parser switched off; cost is bounded before parsing."""
    opened = raw.count(b"{")
    if opened > MAX_TENSORS + 2 or raw.count(b"[") > 2 * MAX_TENSORS + 2:
        _refuse(file, f"it lists more than {MAX_TENSORS} tensors")
    if not raw.startswith(b"{"):
        _refuse(file, "its header is not a JSON object")
    try:
        text = raw.decode("utf-8")
        found = json.loads(text, parse_constant=_no_constant)
        if raw.count(b":") != _pairs(found):
            found = json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        _refuse(file, f"its header is not UTF-8 at byte {error.start}")
    except RecursionError:
        _refuse(file, "its header is nested too deeply")
    except ValueError as error:
        _refuse(file, f"its header is not strict JSON: {str(error)[:200]}")
    if not isinstance(found, dict):
        _refuse(file, "its header is not a JSON object")
    return found


def _pairs(found: Any) -> int:
    """Key-value pairs of two levels. Every pair has a colon, so equal counts mean that no key was dropped."""
    if not isinstance(found, dict):
        return -1
    return len(found) + sum(len(value) for value in found.values() if isinstance(value, dict))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(one for one, other in itertools.pairwise(keys) if one == other)
        raise ValueError(f"the key {show(twice)} appears twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number here")


def _metadata(value: Any, file: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _refuse(file, "__metadata__ must map strings to strings")
    return value


def _tensors(entries: dict[str, Any], data_start: int, file: str) -> Iterator[TensorInfo]:
    if len(entries) > MAX_TENSORS:
        _refuse(file, f"it lists {len(entries)} tensors; at most {MAX_TENSORS} are read")
    for name, entry in entries.items():
        if not name or len(name) > MAX_NAME or not name.isprintable():
            _refuse(file, f"tensor name {show(name)} is empty, longer than {MAX_NAME}, or holds control characters")
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            _refuse(file, f"tensor {show(name)} must have exactly dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in STORAGE:
            _refuse(file, f"tensor {show(name)} has dtype {show(dtype)}; quantised and unknown formats are not merged")
        if not isinstance(shape, list) or len(shape) > MAX_DIMS or not _counts(shape):
            _refuse(file, f"tensor {show(name)} has shape {show(shape)}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not _counts(offsets):
            _refuse(file, f"tensor {show(name)} has data_offsets {show(offsets)}")
        nbytes = offsets[1] - offsets[0]
        if nbytes != math.prod(shape) * ITEMSIZE[dtype]:
            _refuse(file, f"tensor {show(name)}: {nbytes} bytes for {dtype} {shape}")
        yield TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], nbytes, file)


def _counts(values: list[Any]) -> bool:
    """Whole numbers from zero to the limit; a loop, for a generator per tensor takes twice as long."""
    for value in values:  # noqa: SIM110
        if type(value) is not int or not 0 <= value < MAX_INTEGER:
            return False
    return True


def _check_cover(tensors: list[TensorInfo], data_start: int, file_size: int, file: str) -> None:
    """The tensors tile the data: no hole, no overlap, nothing before, nothing after."""
    place = data_start
    for tensor in tensors:
        if tensor.start != place:
            what = "overlaps the one before" if tensor.start < place else "leaves a hole before it"
            _refuse(file, f"tensor {show(tensor.name)} {what} (byte {tensor.start}, expected {place})")
        place += tensor.nbytes
    if place != file_size:
        _refuse(file, f"its tensors end at byte {place}, the file at {file_size}: truncated or with trailing bytes")


def _refuse(file: str, reason: str) -> NoReturn:
    raise CheckpointRefused(f"{show(file)[1:-1]}: {reason}")
