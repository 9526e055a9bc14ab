"""Where products are formed: NumPy on the processor, torch on a GPU; sums are float64 everywhere."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np

from nashsolve.core.errors import MissingExtra

from .errors import CheckpointRefused

Array = np.ndarray[Any, Any]


class Arithmetic(Protocol):
    """Gram sums of blocks."""

    name: str

    def zero(self, rows: int) -> Any:
        """An empty sum (rows + 1, rows + 1)."""

    def add(self, total: Any, block: Array, centre: int) -> Any:
        """Add the Gram of `block` (rows, columns), rows minus their mean and then the mean itself.

        The mean is that of the first `centre` rows.
        """

    def fetch(self, total: Any) -> Array:
        """The sum as NumPy float64."""


class OnProcessor:
    """NumPy."""

    name = "cpu"

    def __init__(self) -> None:
        self._room = threading.local()

    def zero(self, rows: int) -> Array:
        """An empty sum."""
        return np.zeros((rows + 1, rows + 1))

    def add(self, total: Array, block: Array, centre: int) -> Array:
        """Differences and products in float64: those of bfloat16, float16 and float32 numbers are exact or nearly."""
        rows = self._rows(len(block) + 1, block.shape[1])
        rows[:-1] = block
        with np.errstate(invalid="ignore", over="ignore"):
            np.mean(rows[:centre], axis=0, out=rows[-1])
            rows[:-1] -= rows[-1]
            total += rows @ rows.T
        return total

    def fetch(self, total: Array) -> Array:
        """Itself."""
        return total

    def _rows(self, height: int, width: int) -> Array:
        """Room of this thread, for allocating a megabyte anew costs as much as filling it."""
        found: Array | None = getattr(self._room, "rows", None)
        if found is None or found.shape != (height, width):
            found = self._room.rows = np.empty((height, width))
        return found


class OnTorch:
    """torch on a device."""

    def __init__(self, device: str) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtra("torch", "moe", f"--device {device}") from None
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise CheckpointRefused(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
        self._torch = torch
        self.name = device

    def zero(self, rows: int) -> Any:
        """An empty sum on the device."""
        return self._torch.zeros((rows + 1, rows + 1), dtype=self._torch.float64, device=self._device)

    def add(self, total: Any, block: Array, centre: int) -> Any:
        """The block travels in its own precision; differences and products in float64."""
        rows = self._torch.from_numpy(np.ascontiguousarray(block)).to(self._device).double()
        mean = rows[:centre].mean(0, keepdim=True)
        rows = self._torch.cat([rows - mean, mean])
        return total.addmm_(rows, rows.T)

    def fetch(self, total: Any) -> Array:
        """Copied to the processor."""
        return np.asarray(total.cpu().numpy())


def choose(device: str) -> Arithmetic:
    """auto: a GPU where torch sees one, else the processor; cpu: NumPy; anything else is a device of torch.

    Raises
    ------
    CheckpointRefused, MissingExtra
    """
    if device == "auto":
        return OnTorch("cuda") if _sees_gpu() else OnProcessor()
    return OnProcessor() if device == "cpu" else OnTorch(device.removeprefix("torch:"))


def _sees_gpu() -> bool:
    """Asks torch only where an NVIDIA driver is loaded, for importing it costs memory and seconds."""
    import importlib.util
    from pathlib import Path

    if not Path("/proc/driver/nvidia/version").exists() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
