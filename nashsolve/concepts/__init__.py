"""Solution concepts: one file each, one call for all of them on every family of problems."""
