"""The exceptions of nashsolve: each says what was wrong and what to do about it."""

from __future__ import annotations

from typing import Any


class NashSolveError(Exception):
    """Base of every error that nashsolve raises on purpose."""


class InvalidProblem(NashSolveError, ValueError):
    """The data do not state a bargaining problem; the message names argument, index and value."""


class InvalidType(InvalidProblem, TypeError):
    """An argument has a type or dtype that no bargaining problem can have."""


class SolveError(NashSolveError):
    """A solve that ended without an answer; `solution` holds what was found."""

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.solution)


class NoAgreement(SolveError):
    """No feasible point gives every player more than the disagreement point (proved)."""


class SolverFailed(SolveError):
    """The solver stopped without an answer that the core could certify."""


class MissingExtra(NashSolveError, ImportError):
    """An optional package is not installed; the message holds the pip line."""

    def __init__(self, package: str, extra: str, reason: str = "", line: str = "") -> None:
        detail = f" ({reason})" if reason else ""
        line = line or f"pip install 'nashsolve[{extra}]'"
        super().__init__(f"{package} is needed for this{detail}: run  {line}")
        self.package = package
        self.extra = extra
        self.reason = reason
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.package, self.extra, self.reason, self.line)
