r"""Momentum of the base expert over the layers of a chain: two real buffers at most, state passed in and returned.

.. math:: \mu^{l+1} = \beta\mu^l + \Delta^l, \qquad E^{l+1} = E^l + \gamma\,\mathrm{Re}\,\mu^{l+1}

For :math:`\beta = r + iu` this is :math:`p' = rp - uq + \Delta`, :math:`q' = up + rq`. Only p is read, so
:math:`\beta` and its conjugate give the same chain, and so does a quaternion :math:`(a, v)` with :math:`r = a` and
:math:`u = \|v\|`: real input and a real read-out never leave the plane that it spans with the real axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nashsolve.tall import combine

from .chain_config import MomentumConfig


@dataclass(frozen=True)
class MomentumState:
    """Explicit state between two layers, a list of tensors each; None stands for zero.

    buffers : p, and q where u is not zero; written to by the next layer
    move : last move of the base expert, for heavy_ball
    scratch : room for p where nothing of it is kept
    """

    buffers: tuple[list[Tensor], ...] | None = None
    move: list[Tensor] | None = None
    scratch: tuple[list[Tensor], ...] | None = None


@dataclass(frozen=True)
class Momentum:
    """The recurrence with multiplier r + iu.

    r, u : float; without momentum both are zero
    heavy_ball : the published appendix, ``E[l+1] = E[l] + gamma Delta[l] + beta (E[l] - E[l-1])``. The base expert is
        real, so that only the real part of beta acts: it equals the recurrence above for real beta only
    """

    r: float = 0.0
    u: float = 0.0
    heavy_ball: bool = False

    @classmethod
    def of(cls, config: MomentumConfig) -> Momentum:
        """The two-buffer form of the configured momentum."""
        if config.kind == "quaternion" and config.quaternion is not None:
            a, *v = config.quaternion
            return cls(a, math.hypot(*v))
        r, u = config.beta * math.cos(config.phase), config.beta * math.sin(config.phase)
        if config.kind == "heavy_ball":
            return cls(r, 0.0, True)
        return cls(r, u)

    @property
    def none(self) -> bool:
        """Whether every move is the step itself."""
        return not (self.r or self.u or self.heavy_ball)

    @property
    def multiplier(self) -> complex:
        """The complex twin of the momentum, for the stability module."""
        return complex(self.r, self.u)

    def advance(
        self, state: MomentumState, base: list[Tensor] | None, experts: Sequence[Any], c: Any, gamma: float
    ) -> tuple[MomentumState, list[Tensor], list[Tensor]]:
        """One layer.

        Parameters
        ----------
        state : so far; ``MomentumState()`` at the first layer
        base : base expert, list of tensors; None for zero: then the result is the move alone
        experts, c : of the combination Delta, as `nashsolve.combine` takes them
        gamma : step size

        Returns
        -------
        next state; next base expert; the real buffer p, of which gamma times is the move
        """
        if self.heavy_ball:
            return self._heavy_ball(state, base, experts, c, gamma)
        beta = complex(self.r, self.u) if self.u else self.r
        room = state.buffers or state.scratch
        point, buffers = combine(base, experts, c, step=gamma, momentum=beta, buffers=state.buffers, buffers_out=room)
        return MomentumState(buffers) if beta else MomentumState(scratch=buffers), point, buffers[0]

    def _heavy_ball(
        self, state: MomentumState, base: list[Tensor] | None, experts: Sequence[Any], c: Any, gamma: float
    ) -> tuple[MomentumState, list[Tensor], list[Tensor]]:
        # A momentum of zero leaves Delta itself in the buffer.
        point, (delta,) = combine(base, experts, c, step=gamma, momentum=0.0)
        move = [gamma * d for d in delta]
        if state.move is not None:
            for target, step, last in zip(point, move, state.move, strict=True):
                target.add_(last, alpha=self.r)
                step.add_(last, alpha=self.r)
        return MomentumState(move=move), point, [m / gamma for m in move]
