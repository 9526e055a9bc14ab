"""How each family of problems is optimized: the few questions that every solution concept asks of a feasible set."""
