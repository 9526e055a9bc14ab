"""How the experiment commands end; failures and signals as for `nashsolve merge`."""

from __future__ import annotations

from ..merge.exits import guarded, terminable

__all__ = ["EPILOG", "guarded", "terminable"]

EPILOG = """\b
Exit codes:
  0    complete
  1    the recipe, its settings or the folder of results was refused
  2    usage: unknown command or option, or a missing optional package
  3    a unit ended with an error; finished ones are kept
  4    a file could not be read or written
  130  interrupted; 143 terminated: the same command resumes
"""
