"""Put derivatives on a Solution: its numbers stay, and depend on the caller's tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import Solution
from nashsolve.core.status import Status
from nashsolve.core.validation import whiten

from .implicit import Implicit, multiplier

Tensor = torch.Tensor


class Data(NamedTuple):
    """The equilibrated problem as a differentiable function of the caller's tensors, one batch shape throughout."""

    gram: Tensor
    w: Tensor
    d: Tensor
    r: Tensor
    rows: Tensor | None


def attach(solution: Solution) -> Solution:
    """`solution` with derivatives of alpha, coefficients, utilities, gains, multiplier, point and log Nash product.

    They lead to those of vectors, gram, weights, disagreement and radius that require grad. Items without an answer
    pass on a gradient of zero; their status marks them.

    Raises
    ------
    InvalidProblem
        In the backward pass, where the ball is inactive (multiplier zero): the agreed point of such an item is no
        smooth function of the Gram.
    """
    problem = solution.problem
    if not problem.sources or not torch.is_grad_enabled() or problem.n == 0:
        return solution
    good = torch.as_tensor(solution.status, device=problem.unit_gram.device) <= int(Status.SOLVED_INACCURATE)
    active = good if problem.disagreement is None else good & (solution.ball_multiplier > 0)
    data = _safe(_read(problem), active)
    scale = problem.scale
    here = active[..., None] if problem.mask is None else active[..., None] & problem.mask
    given = torch.where(here, solution.coefficients.detach().double() / scale, (~active[..., None]).double())
    c = Implicit.apply(given, *data[:4])
    lam = multiplier(c, data.w, data.d, data.r)
    utilities = (data.gram @ c[..., None])[..., 0] / scale
    gains = utilities - data.d / scale
    point = None
    if data.rows is not None:
        x = (c[..., None, :] @ data.rows)[..., 0, :]
        stored = (solution.coefficients.double()[..., None, :] @ problem.white)[..., 0, :]
        point = _on(stored if solution._point is None else solution._point, x)
    found = replace(
        solution,
        alpha=_on(solution.alpha, lam[..., None] * c * scale),
        ball_multiplier=_on(solution.ball_multiplier, lam),
        coefficients=_on(solution.coefficients, c * scale),
        utilities=_on(solution.utilities, utilities),
        gains=_on(solution.gains, gains),
        log_nash_product=_on(solution.log_nash_product, (data.w * torch.where(here, gains, 1.0).log()).sum(-1)),
        _point=point,
    )
    if problem.disagreement is not None:
        _refuse_inactive(found, good & ~active)
    return found


def _on(value: Tensor, derivative: Tensor) -> Tensor:
    """`value`, bit by bit, with the derivative of `derivative`."""
    return value + (derivative - derivative.detach()).to(value.dtype)


def _refuse_inactive(found: Solution, lost: Tensor) -> None:
    """Let a gradient raise that asks for the derivative of one of the items `lost`, whose ball is inactive."""
    if not bool(lost.any()):
        return

    def check(bar: Tensor) -> None:
        if bool((bar[lost] != 0).any()):
            raise InvalidProblem(
                "the ball is inactive (its multiplier is zero): the agreed point has no derivative by the Gram there. "
                "Choose a smaller radius, or leave these items out of what is differentiated"
            )

    names = ("alpha", "ball_multiplier", "coefficients", "utilities", "gains", "log_nash_product", "_point")
    for name in names:
        value = getattr(found, name)
        if value is not None and value.requires_grad:
            value.register_hook(check)


def _read(problem: BargainingProblem) -> Data:
    sources, scale, batch, n = problem.sources, problem.scale, problem.batch_shape, problem.n
    rows = problem.white
    gram = problem.unit_gram
    if "vectors" in sources:
        rows = whiten(sources["vectors"].double(), problem.metric, problem.xp)
    if "gram" in sources:
        given = sources["gram"].double()
        gram = scale[..., :, None] * ((given + given.mT) / 2) * scale[..., None, :]
    elif rows is not None:
        hat = rows * scale[..., None]
        gram = hat @ hat.mT
    w = sources["weights"].double() if "weights" in sources else problem.power
    d = torch.zeros_like(scale)
    if problem.disagreement is not None:
        d = sources.get("disagreement", problem.disagreement).double() * scale
    if problem.mask is not None:
        both = problem.mask[..., :, None] & problem.mask[..., None, :]
        gram, w, d = torch.where(both, gram, 0.0), torch.where(problem.mask, w, 0.0), torch.where(problem.mask, d, 0.0)
    r = w.sum(-1).sqrt() if problem.radius is None else sources.get("radius", problem.radius).double()
    scaled = None if rows is None else (rows * scale[..., None]).expand(*batch, n, rows.shape[-1])
    return Data(gram.expand(*batch, n, n), w.expand(*batch, n), d.expand(*batch, n), r.expand(batch), scaled)


def _safe(data: Data, good: Tensor) -> Data:
    """A harmless problem in the place of every item without an answer, so that its zero gradients stay zero."""
    item, row = good[..., None], good[..., None, None]
    eye = torch.eye(data.w.shape[-1], dtype=data.w.dtype, device=data.w.device)
    return Data(
        torch.where(row, data.gram, eye),
        torch.where(item, data.w, 1.0),
        torch.where(item, data.d, 0.0),
        torch.where(good, data.r, data.w.shape[-1] ** 0.5),
        None if data.rows is None else torch.where(row, data.rows, 0.0),
    )
