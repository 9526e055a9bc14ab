r"""
Sharing a pie, nine ways
========================

A union with the utility :math:`\sqrt x` and a firm with the utility :math:`x` share one unit. The Nash agreement is
where a level curve of the product of the gains touches the frontier. The other concepts of fairness pick other points.
"""

import matplotlib.pyplot as plt

import nashsolve as ns
from nashsolve.plotting import plot_frontier

pie = ns.ConvexBargainingProblem(
    utilities={"union": lambda x: x[0] ** 0.5, "firm": lambda x: x[1]},
    constraints=ns.simplex(2),
    disagreement={"union": 0.2, "firm": 0.0},
)
comparison = ns.compare(pie)
print(comparison)

fig, ax = plt.subplots(figsize=(7.5, 5.6), layout="constrained")
plot_frontier(pie, comparison.solutions, ax=ax)
plt.show()
