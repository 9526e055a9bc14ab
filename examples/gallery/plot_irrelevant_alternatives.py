r"""
What an alternative that nobody picks can do
============================================

Cut the top off a triangle of feasible utilities. The Nash agreement was elsewhere, so it stays: that is *independence
of irrelevant alternatives*. The Kalai-Smorodinsky agreement compares with the best that each player could have, which
is less now for Bob, so it moves and Bob pays. In return it is *monotone*, as the Nash agreement is not
:cite:p:`nash1950,kalai_smorodinsky1975`.
"""

import matplotlib.pyplot as plt

import nashsolve as ns
from nashsolve.plotting import plot_frontier

triangle = ns.OutcomeBargainingProblem([[0, 0], [1, 0], [0, 1]], names=["Ann", "Bob"])
cut = ns.OutcomeBargainingProblem([[0, 0], [1, 0], [0.4, 0.6], [0, 0.6]], names=["Ann", "Bob"])

fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for ax, problem, title in zip(axes, (triangle, cut), ("all outcomes", "the top is gone"), strict=True):
    agreements = ns.compare(problem, ["nash", "kalai_smorodinsky"])
    print(agreements)
    plot_frontier(problem, agreements.solutions, level_curve=False, ax=ax)
    ax.set_ylim(-0.05, 1.05)
    ax.set_title(title)
plt.show()
