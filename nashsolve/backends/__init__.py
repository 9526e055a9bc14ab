"""One solver engine a file; catalog.py lists them."""
