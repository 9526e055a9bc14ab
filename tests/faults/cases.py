"""How a fault table row becomes a test: a function registered under an id, run by one parametrised test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

GRAM = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 3.0]])
VECTORS = np.array([[1.0, 0.2, 0.0], [0.3, 1.0, -0.2], [-0.4, 0.5, 1.0]])
OPPOSED = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def changed(value: Any, index: Any, entry: float) -> np.ndarray:
    """A copy with one entry replaced."""
    result = np.array(value, dtype=float)
    result[index] = entry
    return result


Check = Callable[[], None]
