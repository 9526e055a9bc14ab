r"""
Which momentum a chain of layers can bear
=========================================

The base expert moves from layer to layer with a step :math:`\gamma` and a complex momentum :math:`\beta`. Inside the
region the chain settles. The conditions on record for the same recurrence are drawn beside the exact one
(:doc:`/moe/stability`).
"""

import matplotlib.pyplot as plt

from nashsolve.integrations.torch_moe.pictures import plot_stability_map

fig, ax = plt.subplots(figsize=(7, 5), layout="constrained")
plot_stability_map(0.5, ax=ax)
plt.show()
