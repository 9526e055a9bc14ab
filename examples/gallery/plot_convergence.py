r"""
Iterations
==========

The certified duality gap after every iteration of Newton's method, on easy, conflicted and nearly opposed problems of
32 players. Few steps are needed whatever the conflict: the problem is self-concordant (:doc:`/theory/core`).
A line begins at the first iterate that gives everybody a gain; before that nothing is certified.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns
from nashsolve.plotting import plot_convergence

rng = np.random.default_rng(0)
aligned = rng.normal(size=(32, 64)) + 1.0
opposed = rng.normal(size=(32, 33))
nearly = rng.normal(size=(32, 33))
nearly[-1] = -nearly[:-1].sum(0) + 1e-3 * rng.normal(size=33)
problems = {"aligned": aligned, "as many players as dimensions": opposed, "almost cancelling": nearly}
histories = {
    name: ns.convergence(ns.BargainingProblem(vectors=vectors), solver="newton") for name, vectors in problems.items()
}
print({name: len(gaps) - 1 for name, gaps in histories.items()})

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
plot_convergence(histories, ax=ax)
plt.show()
