"""A small byte-level Mixture-of-Experts model, trained on the standard library, as a real input for merging."""
