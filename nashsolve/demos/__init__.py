"""Real bargaining problems that are shipped with the package."""
