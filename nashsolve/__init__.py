"""Nash bargaining: a certified solver, and the tool that merges experts with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import axioms
from .compare import compare, convergence
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
from .sensitivity import sensitivity, sweep
from .solve import explain, nash_weights, solve, solve_discrete

if TYPE_CHECKING:
    from .problems.convex import ConvexBargainingProblem as ConvexBargainingProblem
    from .problems.domains import ball as ball
    from .problems.domains import box as box
    from .problems.domains import polytope as polytope
    from .problems.domains import simplex as simplex
    from .problems.frontier import frontier as frontier
    from .problems.markets import exchange as exchange
    from .problems.markets import fisher_market as fisher_market
    from .problems.networks import network as network
    from .problems.outcomes import OutcomeBargainingProblem as OutcomeBargainingProblem
    from .problems.risk import portfolio as portfolio
    from .problems.risk import risk_budgeting as risk_budgeting
    from .problems.splits import alternating_offers as alternating_offers
    from .problems.splits import outside_options as outside_options
    from .problems.splits import split as split
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
    "split": "problems.splits",
    "outside_options": "problems.splits",
    "alternating_offers": "problems.splits",
    "fisher_market": "problems.markets",
    "exchange": "problems.markets",
    "network": "problems.networks",
    "risk_budgeting": "problems.risk",
    "portfolio": "problems.risk",
    "frontier": "problems.frontier",
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
    "axioms",
    "compare",
    "convergence",
    "crosscheck",
    "explain",
    "gram",
    "nash_weights",
    "sensitivity",
    "solve",
    "solve_discrete",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "plotting":
        return import_module(".plotting", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
