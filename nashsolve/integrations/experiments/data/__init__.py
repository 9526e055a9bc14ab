"""Data: what every Python brings along for the miniatures, and loaders of the paper's data sets."""
