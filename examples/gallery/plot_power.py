r"""
What power buys
===============

The utilities of three players while the bargaining power of one of them grows from almost nothing to almost everything.
The others differ in how far they are opposed to her, and so in what they lose.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns
from nashsolve.plotting import plot_sweep

vectors = np.array([[1.0, 0.2, 0.0], [-0.5, 1.0, 0.1], [0.3, 0.3, 1.0]])
problem = ns.BargainingProblem(vectors=vectors, names=["Ann", "Bob", "Cleo"], radius=1.0)
shares = np.linspace(0.02, 0.96, 25)
moved = ns.sweep(problem, "weights", [[share, (1 - share) / 2, (1 - share) / 2] for share in shares])

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
plot_sweep(moved, ax=ax)
plt.show()

# %%
# The slope at any place is known without solving again: the derivative of Ann's utility with respect to her weight.
print(ns.sensitivity(ns.solve(problem)).weights[0, 0].round(4))
