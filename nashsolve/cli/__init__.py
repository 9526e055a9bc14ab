"""The command line; `main` runs, and says what to install, without typer too."""

from __future__ import annotations

import sys

from nashsolve.core.errors import MissingExtra

_NEEDED = {"typer", "click", "rich", "pydantic"}


def main() -> None:
    """Entry point of the command `nashsolve`."""
    try:
        from .app import app
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        print(f"nashsolve: {MissingExtra(package, 'cli')}", file=sys.stderr)
        raise SystemExit(2) from None
    app()
