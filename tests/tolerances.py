"""The only place where tests take tolerances from, keyed by dtype and kind.

A comparison of two certified answers needs no entry here: their error bounds say how far apart they may be.
"""

from __future__ import annotations

from types import MappingProxyType

EPS = MappingProxyType({"float64": 2.0**-52, "float32": 2.0**-23})

_TABLE = {
    # closed forms: a few rounding errors
    ("float64", "ulp"): 4 * 2.0**-52,
    ("float32", "ulp"): 4 * 2.0**-23,
    # the accuracy of alpha that solve() promises by default
    ("float64", "rtol"): 1e-10,
    ("float32", "rtol"): 1e-5,
    # the same of gains for utilities given as functions
    ("curved", "rtol"): 1e-6,
    # gains from alpha, points from coefficients: a short sum of rounded terms
    ("float64", "sum"): 1e-12,
    ("float32", "sum"): 1e-5,
    # a direct residual alpha (A alpha) = w, relative, for well conditioned data
    ("float64", "residual"): 1e-11,
    ("float32", "residual"): 1e-5,
    # length of sum_i y_i v_i relative to the players, for a certificate
    ("float64", "certificate"): 1e-6,
    ("float32", "certificate"): 1e-3,
    # a small network whose matrix products run in bfloat16
    ("bfloat16", "products"): 0.05,
    # known answers with six published digits or a tiny residual
    ("float64", "gap"): 1e-20,
    ("float32", "gap"): 1e-10,
}


def tolerance(dtype: str, kind: str) -> float:
    """The entry for a dtype name and a kind; KeyError names what is missing."""
    return _TABLE[dtype, kind]


def dtype_name(array: object) -> str:
    """`float64` or `float32` of any array library."""
    return str(getattr(array, "dtype", "float64")).rsplit(".", maxsplit=1)[-1]
