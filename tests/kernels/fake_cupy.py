"""CuPy without a GPU: arrays over NumPy that refuse to be read while `no_sync` holds, and kernels run on the host.

`RawModule` compiles the text that NVRTC would get with the host's compiler (`host_cuda.hpp`), so that the sources in
nash.cu, the order and kinds of arguments, the grid and the shared memory are all put to work.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

HERE = Path(__file__).parent
_FAULTS = {
    1: "the arguments are not what the kernel takes",
    2: "the shared memory asked for is no multiple of 8 bytes, or too large",
    3: "the kernel wrote outside the shared memory that it was given",
    4: "there is no kernel of this name",
}
generic = np.generic  # array-api-compat asks a module that calls itself cupy for it
_state = SimpleNamespace(forbidden=False, streams=[], launches=[], imported=0)


class Sync(AssertionError):
    """The host waited for the device."""


@contextmanager
def no_sync() -> Iterator[None]:
    """Any read of a device's array raises Sync."""
    _state.forbidden = True
    try:
        yield
    finally:
        _state.forbidden = False


def log() -> SimpleNamespace:
    """What happened: `launches` (name, grid, block, shared bytes), `streams` entered, arrays `imported` by DLPack."""
    return _state


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that stands for one on a device."""

    device = SimpleNamespace(id=0)

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    flags = property(lambda self: self._host.flags)
    ctypes = property(lambda self: self._host.ctypes)

    def get(self) -> np.ndarray:
        """Copy to the host, which waits."""
        if _state.forbidden:
            raise Sync("a value on the device was read by the host")
        return self._host.copy()

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise TypeError("implicit conversion to NumPy is not allowed; use .get()")

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def tolist(self) -> Any:
        return self.get().tolist()

    def any(self) -> DeviceArray:
        return DeviceArray(self._host.any())

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (DeviceArray(part) for part in self._host)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self._host[plain(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[plain(key)] = plain(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return on_device(getattr(ufunc, method)(*map(plain, inputs), **options))

    def __array_namespace__(self, api_version: Any = None) -> Any:
        return Namespace(np)


DeviceArray.__module__ = "cupy"


class Namespace:
    """NumPy's functions from device to device."""

    __name__ = "a namespace of a device"

    def __init__(self, room: Any) -> None:
        self._room = room

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._room, name)
        if name == "linalg":
            return Namespace(found)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any, device: Any = None, **options: Any) -> Any:
            return on_device(found(*plain(args), **plain(options)))

        return call


def plain(value: Any) -> Any:
    """`value`, and what it holds, as NumPy."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return type(value)(plain(v) for v in value) if type(value) in (list, tuple) else value


def on_device(value: Any) -> Any:
    """`value`, and what it holds, as arrays of a device."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(value)
    return tuple(map(on_device, value)) if isinstance(value, list | tuple) else value


@cache
def library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The text for NVRTC, compiled for the host."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("no C++ compiler")
    defines = [o for o in options if o.startswith("-D")]
    text = (HERE / "host_cuda.hpp").read_text() + code + (HERE / "host_drive.hpp").read_text()
    name = hashlib.sha256(repr((text, options)).encode()).hexdigest()[:16]
    folder = Path(tempfile.mkdtemp(prefix="nash_host_"))
    source, target = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(text)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-psabi", "-Wno-attributes"]
    flags += os.environ.get("NASH_HOST_FLAGS", "").split()  # tools/sanitize.py
    subprocess.run([compiler, *flags, *defines, str(source), "-o", str(target)], check=True, capture_output=True)
    loaded = ctypes.CDLL(str(target))
    shutil.rmtree(folder)
    return loaded


class Kernel:
    """One kernel of a module."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name, self.max_dynamic_shared_size_bytes = module, name, 48 * 1024

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "more shared memory than the kernel may have"
        assert len(grid) == len(block) == 1 and 0 < block[0] <= 1024 and 0 < grid[0] < 2**31
        kinds, cells = "", []
        for value in args:
            kind, cell = _argument(value)
            kinds += kind
            cells.append(cell)
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells))
        drive = library(self.module.code, self.module.options).drive
        code = drive(
            self.name.encode(),
            pointers,
            kinds.encode(),
            ctypes.c_longlong(grid[0]),
            block[0],
            ctypes.c_long(shared_mem),
        )
        if code:
            raise RuntimeError(f"{self.name}: {_FAULTS[code]}")
        _state.launches.append((self.name, grid[0], block[0], shared_mem))


def _argument(value: Any) -> tuple[str, Any]:
    """Kind and storage of an argument, as CuPy passes it."""
    if isinstance(value, DeviceArray):
        assert value.flags.c_contiguous and value.dtype in (np.float64, np.int64)
        return "p", ctypes.c_void_p(value.ctypes.data)
    kinds: dict[Any, tuple[str, Any]] = {
        np.uint64: ("p", ctypes.c_void_p),
        np.int64: ("q", ctypes.c_longlong),
        np.int32: ("i", ctypes.c_int),
        np.float64: ("d", ctypes.c_double),
    }
    kind, storage = kinds[type(value)]
    return kind, storage(value.item())


class RawModule:
    """The text, compiled when a kernel of it first runs."""

    def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == "nvrtc" and "#include" not in code
        self.code, self.options = code, options

    def get_function(self, name: str) -> Kernel:
        return Kernel(self, name)


class Device:
    """The one device."""

    attributes: ClassVar = {"MaxSharedMemoryPerBlockOptin": 232448, "MultiProcessorCount": 2}

    def __init__(self, index: int) -> None:
        assert index == 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class Stream:
    """A stream borrowed from another library."""

    @classmethod
    def from_external(cls, other: Any) -> Stream:
        made = cls()
        made.handle = other.__cuda_stream__()[1]
        return made

    handle: int

    def __enter__(self) -> Stream:
        _state.streams.append(self.handle)
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def empty(shape: Any, dtype: Any) -> DeviceArray:
    made = np.empty(shape, dtype)
    made.fill(np.nan if made.dtype.kind == "f" else -99)
    return DeviceArray(made)


def asarray(value: Any) -> DeviceArray:
    return DeviceArray(value)


def ascontiguousarray(value: DeviceArray) -> DeviceArray:
    host = plain(value)
    return value if host.flags.c_contiguous else DeviceArray(host.copy(order="C"))


def from_dlpack(value: Any) -> DeviceArray:
    import torch

    assert not value.requires_grad
    _state.imported += 1
    return DeviceArray(np.from_dlpack(value.as_subclass(torch.Tensor)))


cuda = SimpleNamespace(Device=Device, Stream=Stream)


class ndarray:  # what array-api-compat would take for CuPy's own, whose namespace this is not
    """Never made."""
