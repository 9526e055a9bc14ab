"""Nash bargaining: a certified solver, and the tool that merges experts with it."""

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

__version__ = "0.1.0"

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
