"""Heat maps as small PNG images inside a page: no script, no file beside it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LOW, MIDDLE, HIGH = (0x2B, 0x6C, 0xB0), (0xF7, 0xF7, 0xF5), (0xC0, 0x4A, 0x1D)
"""Blue for less than the middle, orange for more; told apart by colour-blind eyes as well."""


def colours(values: Array, middle: float, reach: float) -> Array:
    """(..., 3) bytes: MIDDLE at `middle`, LOW and HIGH at a distance of `reach`; white where not finite."""
    at = np.clip((values - middle) / reach, -1, 1)
    low, mid, high = (np.array(c, dtype=float) for c in (LOW, MIDDLE, HIGH))
    size = np.abs(np.nan_to_num(at))[..., None]
    found = np.where(at[..., None] < 0, mid + (low - mid) * size, mid + (high - mid) * size)
    found[~np.isfinite(values)] = 255
    return found.round().astype(np.uint8)


def png(pixels: Array) -> bytes:
    """A PNG of (height, width, 3) bytes."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + pixels[y].tobytes() for y in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def image(values: Sequence[Sequence[float]], middle: float, reach: float, alt: str, scale: int = 0) -> str:
    """An <img> of a matrix; `scale` pixels an entry, chosen by size where it is zero."""
    matrix = np.array(values, dtype=float)
    side = scale or max(2, min(24, 160 // max(matrix.shape)))
    data = base64.b64encode(png(colours(matrix, middle, reach))).decode()
    height, width = (side * n for n in matrix.shape)
    return (
        f'<img class="map" src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}" '
        f'title="{escape(alt)}">'
    )
