"""How the merge commands end: their exit codes, signals included."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from nashsolve.core.errors import MissingExtra, NashSolveError

from ..exits import UsageError, emit

EPILOG = """\b
Exit codes:
  0    complete, or nothing wrong found
  1    the input, the recipe or the output looked at was refused
  2    usage: unknown command or option, or a missing optional package
  3    a bargaining problem has no certified answer, and the recipe says fail
  4    a file could not be read or written, or the memory bound does not suffice
  5    another process writes to the output folder
  6    the output folder was begun with another plan
  130  interrupted; 143 terminated: the same command resumes
"""


class Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing takes it for a failure of its own."""


@contextmanager
def guarded(as_json: bool) -> Iterator[None]:
    """Turn every expected failure into one sentence and its exit code."""
    try:
        yield
    except (MissingExtra, UsageError) as error:
        _stop(str(error), 2, as_json)
    except NashSolveError as error:
        _stop(str(error), getattr(error, "exit_code", 1), as_json)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        _stop(f"{name}{error.strerror or error}", 4, as_json)
    except MemoryError:
        _stop("the system gave no more memory; what is finished can be resumed", 4, as_json)
    except KeyboardInterrupt:
        _stop("interrupted; the same command resumes", 130, as_json)
    except Terminated:
        _stop("terminated; the same command resumes", 143, as_json)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that side files go and the journal stays whole; the old handler comes back."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(sentence: str, code: int, as_json: bool, more: dict[str, Any] | None = None) -> NoReturn:
    sentence = " ".join(sentence.split())
    if as_json:
        emit({"error": sentence, "exit_code": code, **(more or {})})
    print(f"nashsolve: {sentence}", file=sys.stderr)
    raise typer.Exit(code) from None
