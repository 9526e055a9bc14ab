"""What newton takes from NumPy beyond its public names, and what it does without."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import nashsolve as ns
from nashsolve.backends import newton


def test_without_numpys_own_inversion_the_wrapper_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 20))
    problem = ns.BargainingProblem(gram=rows @ rows.T)
    usual = ns.solve(problem, solver="newton")
    monkeypatch.setitem(sys.modules, "numpy.linalg._umath_linalg", None)
    newton._inversion.cache_clear()
    try:
        assert newton._inversion() is np.linalg.inv
        wrapped = ns.solve(problem, solver="newton")
    finally:
        newton._inversion.cache_clear()
    assert wrapped.alpha.tobytes() == usual.alpha.tobytes() and wrapped.n_iter == usual.n_iter
