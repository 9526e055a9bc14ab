r"""
Where the published procedure can end
=====================================

Two tasks with gradients of lengths :math:`\ell` and 1 and cosine :math:`\rho < 0`. The published sequential procedure
:cite:p:`navon2022` has the Nash solution as a fixed point only left of the curve (see :doc:`/theory/ccp`). Each mark is
one run of it from its own start: filled where it ended at the Nash solution, open where it did not. The agreed
direction itself does not depend on :math:`\ell` at all.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns

lengths, cosines = np.logspace(0, 2, 9), np.linspace(-0.95, -0.15, 7)
right, wrong, none = [], [], []
for length in lengths:
    for cosine in cosines:
        gram = np.array([[length**2, cosine * length], [cosine * length, 1.0]])
        found = ns.solve(gram, solver="ccp", on_failure="return")
        exact = 1 / np.sqrt(1 + cosine) / np.array([length, 1.0])
        place = (length, cosine)
        if found.details["sub_problems"][-1:] == ["unbounded"]:
            none.append(place)
        else:
            (right if np.allclose(found.alpha, exact, rtol=1e-2) else wrong).append(place)
print(f"Nash solution {len(right)}, another point {len(wrong)}, no first step {len(none)}")

rho = np.linspace(-0.999, -0.05, 300)
limit = (4 / np.sqrt(1 + rho) + 2 - rho) / -rho  # |rho| l - (2 + |rho|) = 4 / sqrt(1 + rho)

fig, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
ax.semilogx(*np.transpose(right), "o", color="#0072B2", label="ends at the Nash solution")
for places, marker, label in ((wrong, "s", "ends at another point"), (none, "x", "the first sub-problem is unbounded")):
    if places:
        ax.semilogx(*np.transpose(places), marker, color="#D55E00", markerfacecolor="none", label=label)
ax.semilogx(limit, rho, color="black", linewidth=1.2, label="right of this it is no fixed point")
ax.set_xlim(0.85, 130)
ax.set_xlabel(r"length of the first gradient, $\ell$")
ax.set_ylabel(r"cosine $\rho$")
ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2, frameon=False)
plt.show()
