"""For TorchJD: a weighting and an aggregator in the place of its NashMTL.

Swap the import and keep the call: ``NashMTL(n_tasks=3)`` becomes ``NashBargaining()``, or stays as it is. There is no
state, no count of tasks to give, and no conic solver; the weights stay on the device of the Jacobian and are
differentiable.
"""

from __future__ import annotations

from typing import Any

from nashsolve.core.errors import InvalidProblem, MissingExtra

try:
    from torchjd.aggregation import GramianWeightedAggregator, Weighting
except ImportError as error:
    raise MissingExtra("torchjd", "torchjd", "its aggregators") from error

from torch import Tensor

from .multitask import check_options, published_scaling, task_weights

__all__ = ["NashBargaining", "NashBargainingWeighting", "NashMTL", "published_scaling"]


class NashBargainingWeighting(Weighting[Any]):
    r"""Weights of the rows of a Jacobian, from its Gramian, by Nash bargaining between its rows.

    Parameters
    ----------
    power : (n,) positive, optional
        Bargaining power of the rows; ones by default.
    max_norm : float >= 0
        Longest step :math:`\|J^\top c\|`; 0 for no limit, as in NashMTL.
    on_failure : "zero", "mean" or "raise"
        What to do where no step helps every row.
    n_tasks : int, optional
        Checked against the number of rows where given.
    gram_error : float
        Relative error of the Gramian's entries.

    Attributes
    ----------
    status : int tensor (), the `nashsolve.Status` code of the last call, or None before the first. [navon2022]_
    """

    def __init__(
        self,
        power: Any = None,
        max_norm: float = 1.0,
        on_failure: str = "zero",
        n_tasks: int | None = None,
        gram_error: float = 1e-6,
    ) -> None:
        super().__init__()
        check_options(max_norm, on_failure)
        self.power, self.max_norm, self.on_failure = power, max_norm, on_failure
        self.n_tasks, self.gram_error = n_tasks, gram_error
        self.status: Tensor | None = None

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Weights (n,) in the dtype of the Gramian (n, n)."""
        self.check_rows(gramian)
        found = task_weights(
            gramian,
            self.power,
            max_norm=self.max_norm,
            on_failure=self.on_failure,
            gram_error=self.gram_error,
        )
        self.status = found.status
        return found.weights

    def check_rows(self, gramian: Tensor) -> None:
        """Raise InvalidProblem unless there are `n_tasks` rows, where that was given."""
        if self.n_tasks is not None and gramian.shape[0] != self.n_tasks:
            raise InvalidProblem(f"the Jacobian has {gramian.shape[0]} rows, and n_tasks is {self.n_tasks}")


class NashBargaining(GramianWeightedAggregator):
    """The Nash bargaining step of a Jacobian's rows: `NashBargainingWeighting` and the combination of the rows.

    Takes the arguments of `NashBargainingWeighting`; `status` is that of its last call.
    """

    gramian_weighting: NashBargainingWeighting

    def __init__(
        self,
        power: Any = None,
        max_norm: float = 1.0,
        on_failure: str = "zero",
        n_tasks: int | None = None,
        gram_error: float = 1e-6,
    ) -> None:
        super().__init__(NashBargainingWeighting(power, max_norm, on_failure, n_tasks, gram_error))

    @property
    def status(self) -> Tensor | None:
        return self.gramian_weighting.status

    def __repr__(self) -> str:
        w = self.gramian_weighting
        return f"{type(self).__name__}(power={w.power}, max_norm={w.max_norm}, on_failure={w.on_failure!r})"


class _Reusing(NashBargainingWeighting):
    """As published: alpha is renewed at every k-th call and clipped at each."""

    def __init__(self, n_tasks: int | None, max_norm: float, every: int, max_iter: int) -> None:
        super().__init__(max_norm=max_norm, n_tasks=n_tasks)
        for name, value in (("update_weights_every", every), ("optim_niter", max_iter)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidProblem(f"{name} is {value!r}; a whole number from 1 on is needed")
        self.every, self.max_iter = every, max_iter
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.alpha: Tensor | None = None

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.check_rows(gramian)
        if self.alpha is None or self.calls % self.every == 0:
            found = task_weights(gramian, max_norm=0, gram_error=self.gram_error, max_iter=self.max_iter)
            self.alpha, self.status = found
        self.calls += 1
        return published_scaling(self.alpha, gramian, self.max_norm)


class NashMTL(NashBargaining):
    """The call of TorchJD's class of that name, solved exactly.

    Parameters
    ----------
    n_tasks : int, optional
    max_norm : float >= 0
    update_weights_every : int
        The multipliers are renewed at every so many calls; `reset` begins anew.
    optim_niter : int
        Newton iterations allowed, of which 12 are enough; a call that needs more makes no step. [navon2022]_
    """

    gramian_weighting: _Reusing

    def __init__(
        self,
        n_tasks: int | None = None,
        max_norm: float = 1.0,
        update_weights_every: int = 1,
        optim_niter: int = 20,
    ) -> None:
        GramianWeightedAggregator.__init__(self, _Reusing(n_tasks, max_norm, update_weights_every, optim_niter))

    def reset(self) -> None:
        """Forget the multipliers that `update_weights_every` reuses."""
        self.gramian_weighting.reset()
