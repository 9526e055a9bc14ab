"""`python -m nashsolve.cli` is the command `nashsolve`."""

from . import main

main()
