"""One experiment a file; the interface is `nashsolve.integrations.experiments.study`."""
