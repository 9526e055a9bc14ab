r"""
Three players: shares, and directions
=====================================

Left, how some concepts divide the gains of three players. Right, the players' vectors and the agreements as directions
on the unit sphere, seen from above; the shading is the Nash product, and where it ends somebody loses.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns
from nashsolve.plotting import plot_hemisphere, plot_simplex

vectors = np.array([[2.0, 0.5, 0.0], [-0.4, 1.0, 0.2], [0.1, -0.3, 1.0]])
problem = ns.BargainingProblem(vectors=vectors, names=["Ann", "Bob", "Cleo"], radius=1.0)
agreements = ns.compare(problem, ["nash", "kalai_smorodinsky", "egalitarian", "utilitarian"]).solutions

fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
plot_simplex(problem, agreements, ax=axes[0])
plot_hemisphere(problem, agreements, ax=axes[1])
plt.show()
