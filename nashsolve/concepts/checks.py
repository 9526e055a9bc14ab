"""Checks that options of several concepts share."""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.validation import check_positive
from nashsolve.problems.family import refuse


def positive(value: Any, name: str) -> Any:
    """The array itself; raises unless every entry is positive and finite."""
    refuse(check_positive(value, name, np, 1))
    return value
