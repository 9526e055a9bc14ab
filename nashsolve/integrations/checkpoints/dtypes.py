"""Number formats of safetensors in NumPy: bfloat16 through its sixteen bits, the rest natively."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""What can be merged, with the NumPy dtype that holds its bytes."""

OTHERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}
OTHERS |= {"BOOL": "|b1"}
"""What can be copied unchanged."""

STORAGE = FLOATS | OTHERS
ITEMSIZE = {name: np.dtype(code).itemsize for name, code in STORAGE.items()}

RECIPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The words people write in recipes."""

EPS = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
"""Spacing of the numbers next to one."""

_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00}


def decode(raw: bytes | bytearray | memoryview | Array, dtype: str) -> Array:
    """Raw bytes as float32, or float64 for F64; exact for every format.

    Parameters
    ----------
    raw : bytes of whole elements
    dtype : one of FLOATS
    """
    return widened(np.frombuffer(raw, dtype=FLOATS[dtype]), dtype)


def widened(bits: Array, dtype: str) -> Array:
    """What FLOATS holds in memory, as float32 or float64."""
    if dtype == "BF16":
        wide = bits.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return bits.astype(np.float32) if dtype == "F16" else bits


def encode(values: Array, dtype: str) -> Array:
    """float32 or float64 values as an array whose bytes are in `dtype`, rounded once, to nearest even.

    Raises
    ------
    FloatingPointError
        A finite value becomes infinite in `dtype`.
    """
    if dtype == "BF16":
        bits = np.ascontiguousarray(_to_float32(values), dtype="<f4").view("<u4")
        sums = bits >> np.uint32(16)
        sums &= np.uint32(1)
        sums += np.uint32(0x7FFF)
        sums += bits
        found = sums.view("<u2")[1::2].copy()
    else:
        with np.errstate(over="ignore"):
            found = values.astype(FLOATS[dtype])
    if not all_finite(found, dtype):
        raise FloatingPointError(f"a value up to {np.abs(values).max():.6g} does not fit in {dtype}")
    return found


def all_finite(stored: Array, dtype: str) -> bool:
    """True when no stored number is NaN or infinite; integers always are finite."""
    if dtype in _EXPONENT:
        mask = np.uint16(_EXPONENT[dtype])
        bits = stored.view(np.uint16)
        return not bits.size or int((bits & mask).max()) != int(mask)
    if dtype in FLOATS:
        return bool(np.isfinite(stored).all())
    return True


def first_bad(stored: Array, dtype: str) -> tuple[int, int]:
    """How many stored numbers are not finite, and the place of the first."""
    values = decode(stored, dtype) if dtype in FLOATS else stored
    bad = np.flatnonzero(~np.isfinite(values))
    return len(bad), int(bad[0]) if len(bad) else -1


def _to_float32(values: Array) -> Array:
    """Round float64 to float32 to odd, so that the rounding to bfloat16 that follows is a single one."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    bits = near.view(np.uint32)
    inexact = near.astype(np.float64) != values
    too_far = np.abs(near) > np.abs(values)
    down = np.where(inexact & too_far, bits - np.uint32(1), bits)
    return np.where(inexact, down | np.uint32(1), bits).astype(np.uint32).view(np.float32)
