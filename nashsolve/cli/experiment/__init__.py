"""`nashsolve experiment`: the published tables and figures as commands."""
