"""A CUDA device that is not there: `fake_cupy` for CuPy, and torch tensors that say they are on a device."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nashsolve.backends import cupy_batched
from nashsolve.core import arrays
from tests.kernels import fake_cupy

CACHES = (
    arrays.has_cupy,
    *(getattr(cupy_batched, n) for n in ("build_failure", "_module", "_kernels", "_shared_limit", "_processors")),
)


def forget() -> None:
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler to run the kernels on the host")
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    forget()
    log = fake_cupy.log()
    log.launches, log.streams, log.imported = [], [], 0
    yield fake_cupy
    forget()


@pytest.fixture
def tensor(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What makes of an array a tensor that says it is on a device, and must not be read there."""
    torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")
    waits = ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu", "numpy", "nonzero")

    class OnDevice(torch.Tensor):
        is_cuda = True

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if fake_cupy.log().forbidden and getattr(func, "__name__", "") in waits:
                raise fake_cupy.Sync(f"{func.__name__} reads a value on the device")
            return super().__torch_function__(func, types, args, kwargs or {})

    OnDevice.__module__ = "torch.on_a_device"

    class Stream:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 77

    def empty(*args: Any, **options: Any) -> Any:
        return made(*args, **options).as_subclass(OnDevice)

    made = torch.empty
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch, "empty", empty)
    yield lambda value: torch.as_tensor(value).clone().as_subclass(OnDevice)
