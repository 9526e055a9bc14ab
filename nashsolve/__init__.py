"""Nash bargaining: a certified solver, and the tool that merges experts with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.certificate import Certificate, verify
from .core.errors import (
    InvalidProblem,
    MissingExtra,
    NashSolveError,
    NoAgreement,
    SolverFailed,
)
from .core.problem import BargainingProblem, gram
from .core.solution import Solution
from .core.status import Status
from .crosscheck import crosscheck
from .solve import explain, nash_weights, solve

if TYPE_CHECKING:
    from .problems.convex import ConvexBargainingProblem as ConvexBargainingProblem
    from .problems.domains import ball as ball
    from .problems.domains import box as box
    from .problems.domains import polytope as polytope
    from .problems.domains import simplex as simplex
    from .problems.outcomes import OutcomeBargainingProblem as OutcomeBargainingProblem
    from .tall import Combined as Combined
    from .tall import DifferenceGram as DifferenceGram
    from .tall import combine as combine
    from .tall import gram_of_differences as gram_of_differences

__version__ = "0.1.0"

# Names whose rooms need a heavy package (torch): loaded at first use, and no part of `import *`, which would load it.
_LAZY = {
    "Combined": "tall",
    "DifferenceGram": "tall",
    "combine": "tall",
    "gram_of_differences": "tall",
    "ConvexBargainingProblem": "problems.convex",
    "OutcomeBargainingProblem": "problems.outcomes",
    "ball": "problems.domains",
    "box": "problems.domains",
    "polytope": "problems.domains",
    "simplex": "problems.domains",
}

__all__ = [
    "BargainingProblem",
    "Certificate",
    "InvalidProblem",
    "MissingExtra",
    "NashSolveError",
    "NoAgreement",
    "Solution",
    "SolverFailed",
    "Status",
    "crosscheck",
    "explain",
    "gram",
    "nash_weights",
    "solve",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
