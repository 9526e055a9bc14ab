"""How a command ends: exit codes, one sentence on stderr, strictly valid JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from nashsolve.core.errors import MissingExtra, NashSolveError, SolveError


class Exit(IntEnum):
    """The exit codes, documented in every --help."""

    SOLVED = 0
    REFUSED = 1
    USAGE = 2
    NO_ANSWER = 3
    IO_ERROR = 4


EPILOG = """\b
Exit codes:
  0  solved, and certified
  1  the input was refused: it does not state a bargaining problem
  2  usage: unknown command, option or solver, or a missing optional package
  3  no certified answer: NO_AGREEMENT, AMBIGUOUS, MAX_ITER, MAX_TIME, NUMERICAL_ERROR
  4  a file could not be read or written
With --json, stdout holds one JSON object in all of these cases but an option unknown to the parser.
"""


class UsageError(NashSolveError):
    """An option that no data could make right; exit code 2."""


def emit(value: dict[str, Any]) -> None:
    """One JSON object on stdout; NaN would be a bug and raises."""
    typer.echo(json.dumps(value, allow_nan=False, ensure_ascii=False))


@contextmanager
def guarded(as_json: bool) -> Iterator[None]:
    """Turn every expected failure into one sentence and its exit code."""
    try:
        yield
    except SolveError as error:
        found = {} if error.solution is None else {"solution": error.solution.to_dict()}
        _stop(str(error), Exit.NO_ANSWER, as_json, found)
    except (MissingExtra, UsageError) as error:
        _stop(str(error), Exit.USAGE, as_json)
    except NashSolveError as error:
        _stop(str(error), Exit.REFUSED, as_json)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        _stop(f"{name}{error.strerror or error}", Exit.IO_ERROR, as_json)


def finish(code: Exit) -> None:
    """End with `code`; returns for 0, so that a command may go on."""
    if code:
        raise typer.Exit(int(code))


def _stop(sentence: str, code: Exit, as_json: bool, more: dict[str, Any] | None = None) -> None:
    sentence = " ".join(sentence.split())
    if as_json:
        emit({"error": sentence, "exit_code": int(code), **(more or {})})
    print(f"nashsolve: {sentence}", file=sys.stderr)
    raise typer.Exit(int(code)) from None
