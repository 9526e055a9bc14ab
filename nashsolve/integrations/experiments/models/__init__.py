"""The models of the experiments: the paper's own at any size, and small ones for two cores."""
