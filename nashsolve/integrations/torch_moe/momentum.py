r"""Momentum of the base expert over the layers of a chain: two real buffers at most, state passed in and returned.

.. math:: \mu^{l+1} = \beta\mu^l + \Delta^l, \qquad E^{l+1} = E^l + \gamma\,\mathrm{Re}\,\mu^{l+1}

For :math:`\beta = r + iu` this is :math:`p' = rp - uq + \Delta`, :math:`q' = up + rq`. Only p is read, so
:math:`\beta` and its conjugate give the same chain, and so does a quaternion :math:`(a, v)` with :math:`r = a` and
:math:`u = \|v\|`: real input and a real read-out never leave the plane that it spans with the real axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .chain_config import MomentumConfig

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class MomentumState:
    """Buffers by slot; None stands for zero.

    real, imaginary : p and q; the imaginary one stays None where u is zero
    """

    real: Tensors | None = None
    imaginary: Tensors | None = None


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
    def multiplier(self) -> complex:
        """The complex twin of the momentum, for the stability module."""
        return complex(self.r, self.u)

    def advance(self, state: MomentumState, step: Tensors, gamma: float) -> tuple[MomentumState, dict[str, Tensor]]:
        """One layer: the next state and the move of the base expert.

        Parameters
        ----------
        state : buffers so far; ``MomentumState()`` at the first layer
        step : name -> tensor, Delta; not written to
        gamma : step size
        """
        if self.heavy_ball:
            last = state.real or {}
            move = {k: gamma * d if k not in last else (gamma * d).add_(last[k], alpha=self.r) for k, d in step.items()}
            return MomentumState(move), move
        p = {name: self._plus(d, name, state.real, state.imaginary, -self.u) for name, d in step.items()}
        q = None
        if self.u:
            zero = {name: 0 * d for name, d in step.items()}
            q = {name: self._plus(d, name, state.imaginary, state.real, self.u) for name, d in zero.items()}
        return MomentumState(p if self.r or self.u else None, q), {name: gamma * buffer for name, buffer in p.items()}

    def _plus(self, d: Tensor, name: str, own: Tensors | None, other: Tensors | None, cross: float) -> Tensor:
        """``r own + cross other + d`` with missing buffers as zero."""
        if own is not None and self.r:
            d = d.add(own[name], alpha=self.r)
        return d if other is None else d.add(other[name], alpha=cross)
