"""The judge and its vocabulary: problems, solutions, statuses, certificates. Standard library and arrays only."""
