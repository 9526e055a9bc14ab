"""Array libraries and engines that this machine can test."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest

from nashsolve.backends import catalog


def to_library(library: str, value: Any, dtype: str = "float64") -> Any:
    """`value` as an array of the named library."""
    data = np.asarray(value, dtype=dtype)
    if library == "numpy":
        return data
    module = importlib.import_module(library)
    if library == "torch":
        return module.from_numpy(np.array(data))
    return module.asarray(data)


def engine_library_params() -> list[Any]:
    """One pytest parameter for every catalog row and every array library that it names."""
    found = []
    for row in catalog.CATALOG:
        for library in row.libraries:
            absent = catalog.missing(row.name)
            if absent is None and library != "numpy" and importlib.util.find_spec(library) is None:
                absent = library
            if library == "cupy":
                continue
            marks = [pytest.mark.skip(reason=f"{absent} is not installed")] if absent else []
            found.append(pytest.param(row, library, id=f"{row.name}-{library}", marks=marks))
    return found


def needs(name: str) -> Any:
    """Skip mark for tests that run the engine `name`."""
    absent = catalog.missing(name)
    return pytest.mark.skipif(absent is not None, reason=f"{absent} is not installed")
