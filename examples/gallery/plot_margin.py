r"""
Accuracy near "no agreement"
============================

Two almost opposed players, whose solution is known to sixty digits. The nearer they are to opposite, the larger is the
error of ``alpha``, and much more so from a Gram matrix: its digits are lost when the matrix is formed. Solid lines are
errors, dotted ones the bounds that the library states without knowing the solution. A bound must lie above its line,
and the program stops if it does not; that for vectors is far from tight here. Curves end where the library says that
the data cannot tell whether an agreement exists.
"""

from decimal import Decimal, getcontext

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns

getcontext().prec = 60
rng = np.random.default_rng(0)
start, apart = rng.normal(size=(2, 12))


def exact(vectors):
    """alpha of two players with weight one: 1 / alpha_i = |v_i| sqrt(1 + cosine)."""
    rows = [[Decimal(float(x)) for x in row] for row in vectors]
    (a, b), (_, c) = [[sum(x * y for x, y in zip(u, v, strict=True)) for v in rows] for u in rows]
    opposed = 1 + b / (a * c).sqrt()
    return np.array([float(1 / (square * opposed).sqrt()) for square in (a, c)])


margins = np.logspace(0, -8, 33)
fig, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
for name, color, marker in (("vectors", "#0072B2", "o"), ("gram", "#D55E00", "s")):
    rows = []
    for h in margins:
        vectors = np.array([start, -start + h * apart])
        data = vectors if name == "vectors" else vectors @ vectors.T
        found = ns.solve(ns.BargainingProblem(**{name: data}), on_failure="return")
        if found.success:
            rows.append((h, abs(found.alpha / exact(vectors) - 1).max() + 1e-17, found.error_bound.max()))
    h, errors, bounds = np.transpose(rows)
    assert (errors <= bounds).all()
    ax.loglog(h, errors, marker + "-", color=color, markersize=4, label=f"error, from {name}")
    ax.loglog(h, bounds, ":", color=color, linewidth=2, label=f"bound, from {name}")
ax.invert_xaxis()
ax.set_xlabel("how far the second player is from the opposite of the first")
ax.set_ylabel("relative error of alpha")
ax.legend(frameon=False, fontsize=8)
plt.show()
