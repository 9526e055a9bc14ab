"""How a solve ended, one code per problem."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome of one bargaining problem, set by the core's certificate and never by a solver."""

    SOLVED = 0
    SOLVED_INACCURATE = 1
    NO_AGREEMENT = 2
    AMBIGUOUS = 3
    MAX_ITER = 4
    MAX_TIME = 5
    NUMERICAL_ERROR = 6
    INVALID_INPUT = 7

    def __str__(self) -> str:
        return self.name

    @property
    def success(self) -> bool:
        """True when `alpha` is an answer whose stated error bound holds."""
        return self <= Status.SOLVED_INACCURATE

    @property
    def advice(self) -> str:
        """One sentence: what it means and what to do next."""
        return _ADVICE[self]


_ADVICE = {
    Status.SOLVED: "The agreement is certified to the requested accuracy.",
    Status.SOLVED_INACCURATE: (
        "The agreement is certified, but less accurately than requested; read error_bound, and pass "
        "vectors instead of a Gram matrix for more digits."
    ),
    Status.NO_AGREEMENT: (
        "No feasible point gives every player more than the disagreement point; the certificate proves it. "
        "Lower the disagreement point, drop a blocking player, or use on_failure='face' for the partial agreement."
    ),
    Status.AMBIGUOUS: (
        "The players are so nearly opposed that the precision of the data cannot say whether an agreement "
        "exists; pass vectors or data of higher precision."
    ),
    Status.MAX_ITER: "The iteration limit came first; raise max_iter, or use the best iterate with its gap.",
    Status.MAX_TIME: "The time limit came first; raise time_limit, or use the best iterate with its gap.",
    Status.NUMERICAL_ERROR: (
        "The solver's point is not certified as the Nash bargaining solution of this problem; run crosscheck to see "
        "what the other solvers find, and check the scale of the weights."
    ),
    Status.INVALID_INPUT: "This item of the batch does not state a bargaining problem; see its message.",
}
