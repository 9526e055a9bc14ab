r"""
Who breaks which axiom
======================

``axioms.check`` solves changed problems and looks for one that contradicts an axiom. On this small problem each of
these concepts fails at least one, and the report holds the counter-example.
"""

import matplotlib.pyplot as plt

import nashsolve as ns
from nashsolve.plotting import plot_axioms

kink = ns.OutcomeBargainingProblem([[0, 0], [1, 0], [0, 1], [0.75, 0.75]], names=["Ann", "Bob"])
concepts = ("nash", "kalai_smorodinsky", "egalitarian", "utilitarian", "equal_area", "raiffa_discrete")
reports = [ns.axioms.check(kink, concept) for concept in concepts]

fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
plot_axioms(reports, ax=ax)
plt.show()

# %%
# One of the counter-examples in words:
print(reports[0]["monotonicity"].why)
