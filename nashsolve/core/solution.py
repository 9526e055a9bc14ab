"""The answer: what was agreed, how it was found, and what proves it."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from . import arrays, rendering
from .arrays import Array
from .certificate import Certificate
from .problem import BargainingProblem
from .status import Status
from .validation import unwhiten
from .verdict import batch_message, decide, ends

_READ_LATE = frozenset({"status", "limited_by", "n_iter"})


@dataclass(frozen=True, eq=False)
class Solution:
    """Nash bargaining solution of one problem, or of a batch along leading axes.

    Arrays come in the array library, device and dtype of the problem (float16 and bfloat16 as float32);
    certificate numbers are always float64.

    Attributes
    ----------
    alpha : (..., n) multipliers ``weights / gains``, > 0; NaN where there is no agreement
    ball_multiplier : (...) lambda of the ball, 0 where the ball is inactive
    coefficients : (..., n) the agreed point is ``sum_i coefficients_i * vectors_i``
    point : (..., p) the agreed point, None when only a Gram is known
    utilities, gains : (..., n); gains = utilities - disagreement
    log_nash_product : (...) ``sum_i w_i log gains_i``
    status : Status, or an int array (...) of its codes
    gap : (...) duality gap, >= 0: how much log Nash product could still be won
    error_bound : (..., n) rigorous bound on the relative error of every alpha
    backward_error : (...) componentwise
    angle_bound : (...) radians between the returned and the exact point
    margin, margin_lower : (...) bracket of the distance to "no agreement", 0..1
    certificate : (..., n) for NO_AGREEMENT and AMBIGUOUS: y >= 0, sum y = 1, that blocks every agreement; NaN elsewhere
    radius_needed : (...) an agreement needs at least this radius; inf where none is enough
    limited_by : what kept the accuracy down: "", "precision" or "gram_error"
    effective_weights : (..., n) whose bargain `alpha` solves, ``alpha * (A alpha)`` at zero
        disagreement and ``alpha * gains`` otherwise; equal to the weights at the solution
    n_iter, solver, solve_time : iterations (int or int array), name, seconds
    concept : the solution concept; for others than "nash", `alpha` are the multipliers that support the agreement,
        `gap` is in units of the concept's own objective, and `error_bound` is on the gains or that objective
    details : solver specific
    """

    problem: BargainingProblem = field(repr=False)
    alpha: Array
    ball_multiplier: Array
    coefficients: Array
    utilities: Array
    gains: Array
    log_nash_product: Array
    status: Any
    gap: Array
    backward_error: Array
    error_bound: Array
    angle_bound: Array
    margin: Array
    margin_lower: Array
    certificate: Array
    radius_needed: Array
    effective_weights: Array
    limited_by: str
    n_iter: Any
    solver: str
    solve_time: float = 0.0
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    concept: str = "nash"
    _point: Array | None = field(default=None, repr=False)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """How one problem on a device ended, when it is first asked for; an invalid one raises then."""
            if name not in _READ_LATE or "_unread" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            found = ends(self.problem, *self._unread)
            if found["status"] is Status.INVALID_INPUT:
                _ = self.problem.unit_gram  # reads the problem, and says what is wrong
            self.__dict__.update(found)
            return found[name]

    @property
    def success(self) -> bool:
        """Every problem is SOLVED or SOLVED_INACCURATE."""
        if isinstance(self.status, Status):
            return self.status.success
        import numpy as np

        return bool(np.all(arrays.to_numpy(self.status) <= int(Status.SOLVED_INACCURATE)))

    @property
    def failed(self) -> Array:
        """Bool (...): which items of a batch have no certified answer."""
        return self.status > int(Status.SOLVED_INACCURATE)

    @property
    def point(self) -> Array | None:
        """The agreed point x (..., p) in the coordinates of the vectors, or what the family of problems agrees on."""
        rows = self.problem.white
        if rows is None:
            return self._point
        xp = self.problem.xp
        c = xp.astype(self.coefficients, xp.float64, copy=False)
        x = arrays.matvec(xp.matrix_transpose(rows), c, xp) if self._point is None else self._point
        return xp.astype(unwhiten(x, self.problem.metric, xp), self.alpha.dtype, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers and lists, ready for JSON (NaN and Inf as None)."""
        import numpy as np

        def plain(value: Any) -> Any:
            if isinstance(value, Status):
                return value.name
            if hasattr(value, "shape"):
                return plain(arrays.to_numpy(value).tolist())
            if isinstance(value, list | tuple):
                return [plain(v) for v in value]
            if isinstance(value, dict):
                return {str(k): plain(v) for k, v in value.items()}
            if isinstance(value, float):
                return value if np.isfinite(value) else None
            return value if isinstance(value, int | str | bool | type(None)) else str(value)

        names = [f.name for f in fields(self) if f.name not in ("problem", "status", "_point")]
        status = self.status.name if isinstance(self.status, Status) else self.status_names()
        result = {"status": status, "success": self.success, "names": self.problem.names}
        return result | {name: plain(getattr(self, name)) for name in names} | {"names": plain(self.problem.names)}

    def status_names(self) -> list[Any]:
        """Names of the statuses, nested as the batch is."""

        def name(x: Any) -> Any:
            return [name(v) for v in x] if isinstance(x, list) else Status(x).name

        result: list[Any] = name(arrays.to_numpy(self.status).tolist())
        return result

    @property
    def x(self) -> Any:
        """The agreed point, by the name that optimizers use."""
        return self.point

    @property
    def duals(self) -> Any:
        """Multipliers of the constraints where the solver has them, else None."""
        return self.details.get("duals")

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a player."""
        return rendering.to_frame(self)

    def to_latex(self, digits: int = 4) -> str:
        """A LaTeX tabular, one row a player."""
        return rendering.to_latex(self, digits)

    def plot_frontier(self, ax: Any = None, **options: Any) -> Any:
        """`nashsolve.plotting.plot_frontier` with this agreement marked."""
        from importlib import import_module

        # by name, since pictures live floors above the core
        return import_module("nashsolve.plotting").plot_frontier(self.problem, solutions=[self], ax=ax, **options)

    def _repr_html_(self) -> str:
        return rendering.to_html(self, title(self))

    def __repr__(self) -> str:
        if not isinstance(self.status, Status):
            return _batch_text(self)
        return _text(self)


_DEFAULTS = {f.name: f.default for f in fields(Solution) if f.default is not MISSING}


def build(problem: BargainingProblem, proof: Certificate, rtol: float, stopped: str, **how: Any) -> Solution:
    """Set the status from the certificate alone and cast to the caller's dtype."""
    xp = problem.xp
    worst = arrays.largest(proof.error_bound, xp) if problem.n else xp.sum(proof.gap[..., None] * 0, axis=-1)
    codes, limited = decide(problem, proof, worst, rtol, stopped)
    out = arrays.output_dtype(problem.kind, xp)
    clean = not bool(xp.any(codes) if codes.ndim else codes)
    nan = xp.nan + 0 * proof.alpha
    multiplier, certificate = proof.ball_multiplier, nan
    if not clean:
        blocked = (codes == int(Status.NO_AGREEMENT)) | (codes == int(Status.INVALID_INPUT))
        shows = (codes == int(Status.NO_AGREEMENT)) | (codes == int(Status.AMBIGUOUS))
        multiplier = xp.where(blocked, xp.nan + 0 * proof.gap, multiplier)
        certificate = xp.where(shows[..., None], proof.simplex, nan)

    kind = proof.alpha.dtype
    same = kind == out  # comparing dtypes costs more than asking whether they are one object

    def cast(x: Array) -> Array:
        return x if (same and x.dtype is kind) or x.dtype == out else xp.astype(x, out, copy=False)

    def answer(x: Array) -> Array:
        return cast(x if clean else xp.where(blocked[..., None], nan, x))

    status: Any = Status(int(codes)) if codes.ndim == 0 else codes
    message = status.advice if isinstance(status, Status) else batch_message(codes, problem)
    solution = object.__new__(Solution)  # whose own __init__ would set the fields one by one
    values: dict[str, Any] = dict(
        problem=problem,
        alpha=answer(proof.alpha),
        ball_multiplier=cast(multiplier),
        coefficients=answer(proof.coefficients),
        utilities=answer(proof.utilities),
        gains=answer(proof.gains),
        log_nash_product=proof.log_nash_product,
        status=status,
        gap=proof.gap,
        backward_error=proof.backward_error,
        error_bound=proof.error_bound,
        angle_bound=proof.angle_bound,
        margin=proof.margin,
        margin_lower=proof.margin_lower,
        certificate=cast(certificate),
        radius_needed=proof.radius_needed,
        effective_weights=answer(proof.effective_weights),
        _point=proof.point,
        limited_by=limited,
        message=message,
        **how,
    )
    solution.__dict__.update(_DEFAULTS, details={})
    solution.__dict__.update(values)
    return solution


def _batch_text(s: Solution) -> str:
    return f"<Nash bargaining solutions by {s.solver}: {s.message}>"


def title(s: Solution) -> str:
    """What was computed, in words."""
    return "Nash bargaining solution" if s.concept == "nash" else f"{s.concept.replace('_', '-')} solution"


def _text(s: Solution) -> str:
    """A table by player, then what proves it."""
    p = s.problem
    lines = [f"{title(s)} - {s.status.name} ({s.solver}, {s.n_iter} iterations)"]
    width = max([len(p.player(i)) for i in range(p.n)] + [6])
    shown = range(p.n) if p.n <= 20 else [*range(10), *range(p.n - 3, p.n)]
    if s.status in (Status.NO_AGREEMENT, Status.AMBIGUOUS):
        lines.append(f"{'player':<{width}}  {'certificate y':>14}")
        lines += [f"{p.player(i):<{width}}  {float(s.certificate[i]):>14.6g}" for i in shown]
    if s.status is not Status.NO_AGREEMENT:
        lines.append(f"{'player':<{width}}  {'utility':>11}  {'gain':>11}  {'alpha':>11}  {'error <=':>9}")
        for i in shown:
            row = [float(arrays.to_numpy(v)[i]) for v in (s.utilities, s.gains, s.alpha)]
            lines.append(
                f"{p.player(i):<{width}}  "
                + "  ".join(f"{v:>11.6g}" for v in row)
                + f"  {float(s.error_bound[i]):>9.1e}"
            )
    lines += [rendering.proof_line(s), s.message]
    return "\n".join(lines)
