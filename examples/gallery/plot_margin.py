r"""
Accuracy near "no agreement"
============================

Two almost opposed players, whose solution is known exactly. As their margin goes to zero, the error of ``alpha`` from a
Gram matrix grows like one over its square, and that from vectors like one over the margin. The solid lines are the
errors, the dotted ones the bounds that the library states: a bound has to lie above its line, and when it reaches one
the status is no longer ``SOLVED``.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns

margins = 2.0 ** -np.arange(1, 27)  # powers of two: the vectors and the margin are exact
styles = {"from vectors": ("#0072B2", "o"), "from a Gram matrix": ("#D55E00", "s")}
fig, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
for name, (color, marker) in styles.items():
    errors, bounds = [], []
    for h in margins:
        vectors = np.array([[1.0, h], [-1.0, h]])
        exact = 1 / (np.sqrt(2) * h)
        given = {"vectors": vectors} if name == "from vectors" else {"gram": vectors @ vectors.T}
        found = ns.solve(ns.BargainingProblem(**given), on_failure="return")
        known = found.status in (ns.Status.SOLVED, ns.Status.SOLVED_INACCURATE)
        errors.append(abs(found.alpha / exact - 1).max() if known else np.nan)
        bounds.append(found.error_bound.max() if known else np.nan)
    ax.loglog(margins, np.maximum(errors, 1e-17), marker + "-", color=color, markersize=4, label=f"error, {name}")
    ax.loglog(margins, bounds, ":", color=color, linewidth=2, label=f"bound, {name}")
ax.invert_xaxis()
ax.set_xlabel("margin: distance of the hull of the unit players from the origin")
ax.set_ylabel("relative error of alpha")
ax.legend(frameon=False, fontsize=8)
plt.show()
