r"""
The loud task
=============

Four tasks share a network. Multiply the loss of one of them by a factor: nothing about the tasks has changed, only a
unit. The mean of the gradients follows the loud task until the others lose; the shortest combination (MGDA) hears it
less and less; the Nash step does not move at all, except that the loud task counts its gain in the new unit.
"""

import matplotlib.pyplot as plt
import numpy as np

import nashsolve as ns

rng = np.random.default_rng(2)
gradients = rng.normal(size=(4, 12)) + 0.35
factors = np.logspace(-2, 2, 33)


def unit(x):
    return x / np.linalg.norm(x)


def steps(vectors):
    """The unit step of each rule."""
    problem = ns.BargainingProblem(vectors=vectors, radius=1.0)
    return {
        "mean": unit(vectors.mean(0)),
        "shortest combination": unit(ns.solve(problem, concept="min_norm").point),
        "Nash": ns.solve(problem).point,
    }


gains = {name: [] for name in steps(gradients)}
for factor in factors:
    scaled = gradients * np.array([factor, 1, 1, 1])[:, None]
    for name, step in steps(scaled).items():
        gains[name].append(gradients @ step)  # in the old units

fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharey=True)
for ax, (name, values) in zip(axes, gains.items(), strict=True):
    for i, (line, style) in enumerate(zip(np.transpose(values), ("-", "--", "-.", ":"), strict=True)):
        ax.semilogx(factors, line, style, linewidth=2, label="the scaled task" if i == 0 else f"task {i}")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_title(name)
    ax.set_xlabel("factor of the loss of one task")
axes[0].set_ylabel("gain of every task, in the old units")
axes[2].legend(frameon=False, fontsize=8)
plt.show()
