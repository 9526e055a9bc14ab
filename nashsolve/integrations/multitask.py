"""Nash bargaining between the losses of one training step, in plain torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nashsolve.core.errors import InvalidProblem, InvalidType, MissingExtra, NoAgreement, SolverFailed
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.status import Status
from nashsolve.solve import solve
from nashsolve.tall import combine, gram_of_differences

try:
    import torch
except ImportError as error:
    raise MissingExtra("torch", "torch", "multi-task training") from error

Tensor = torch.Tensor
FALLBACKS = ("zero", "mean", "raise")


class TaskWeights(NamedTuple):
    """Weights (n,) of the tasks' gradients, and the `Status` code () of the bargain, both on the Gram's device."""

    weights: Tensor
    status: Tensor


def task_weights(
    gram: Tensor,
    power: Any = None,
    *,
    max_norm: float = 1.0,
    on_failure: str = "zero",
    gram_error: float = 1e-6,
    max_iter: int = 64,
) -> TaskWeights:
    r"""Weights :math:`c` of the Nash bargaining step :math:`\sum_i c_i g_i` from the Gram of the tasks' gradients.

    .. math:: A \alpha = w / \alpha, \qquad c = \alpha \min(1, m / \sqrt{\alpha^\top A \alpha})

    Parameters
    ----------
    gram : (n, n) floating tensor
        ``A_ij = g_i' g_j``. The weights are differentiable by it.
    power : (n,) positive, optional
        Bargaining power of the tasks; ones by default.
    max_norm : float >= 0
        Longest step; 0 leaves alpha as it is, whose step has length ``sqrt(sum power)``.
    on_failure : "zero", "mean" or "raise"
        What to do where no step helps every task (a Pareto stationary point), or rounding hides whether one does.
        "zero" makes no step, "mean" gives every task the weight 1 / n.
    gram_error : float
        Relative error of the Gram's entries, which float32 sums over many parameters have.
    max_iter : int
        Newton iterations allowed; fewer than it takes count as a failure.

    Returns
    -------
    TaskWeights
        In the dtype of `gram`.

    Raises
    ------
    InvalidProblem, NoAgreement, SolverFailed
        The latter two with "raise" only. [navon2022]_
    """
    check_options(max_norm, on_failure)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise InvalidProblem(f"gram has shape {tuple(gram.shape)}; one square matrix (n, n) is needed")
    n = gram.shape[0]
    data, own_power, error = _lean(gram, power, gram_error)
    problem = BargainingProblem(gram=data[None], weights=own_power, gram_error=error, symmetrize=True)
    solution = solve(problem, on_failure="return", max_iter=max_iter)
    status = torch.as_tensor(solution.status, device=gram.device)[0]
    good = status <= int(Status.SOLVED_INACCURATE)
    if on_failure == "raise" and not bool(good):
        kind_of = NoAgreement if int(status) == int(Status.NO_AGREEMENT) else SolverFailed
        raise kind_of(solution.message, solution)
    other = gram.new_full((n,), 1.0 / n if on_failure == "mean" else 0.0)
    alpha = torch.where(good, torch.as_tensor(solution.alpha, device=gram.device)[0], 1.0)
    weights = published_scaling(alpha, gram, max_norm)
    return TaskWeights(torch.where(good, weights.to(gram.dtype), other), status)


def _lean(gram: Tensor, power: Any, gram_error: float) -> tuple[Any, Any, float]:
    """On the CPU and without derivatives, the data in NumPy and float64, whose solve costs a tenth of torch's."""
    tensors = [x for x in (gram, power) if isinstance(x, Tensor)]
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if graph or any(x.device.type != "cpu" for x in tensors):
        return gram, power, gram_error
    if gram.dtype != torch.float64:
        gram_error = max(gram_error, torch.finfo(gram.dtype).eps)
    plain = [x.detach().double().numpy() if isinstance(x, Tensor) else x for x in (gram, power)]
    return plain[0], plain[1], gram_error


def published_scaling(alpha: Tensor, gram: Tensor, max_norm: float = 1.0) -> Tensor:
    """Nash-MTL's scaling of exact multipliers: alpha, shortened so that the step is no longer than `max_norm`.

    The length of the step of an exact alpha is ``sqrt(n)``, so that with the published ``max_norm = 1`` every step
    has length one. 0 switches the clipping off. [navon2022]_
    """
    check_options(max_norm, "zero")
    if max_norm == 0:
        return alpha
    a = alpha.double()
    length = ((a @ gram.double()) * a).sum().clamp(min=0).sqrt()
    return (a * torch.where(length > max_norm, max_norm / length, 1.0)).to(alpha.dtype)


def nash_backward(
    losses: Sequence[Tensor],
    shared: Iterable[Tensor],
    own: Sequence[Iterable[Tensor]] | None = None,
    *,
    power: Any = None,
    max_norm: float = 1.0,
    on_failure: str = "zero",
) -> TaskWeights:
    """In the place of ``sum(losses).backward()``: the losses bargain over the step of the shared parameters.

    Parameters
    ----------
    losses : n scalar tensors
    shared : parameters that all losses depend on; the bargained step is added to their ``.grad``
    own : n sequences of parameters, optional
        Of every task's own head; the gradient of its loss is added to their ``.grad``.
    power, max_norm, on_failure : as for `task_weights`

    Returns
    -------
    TaskWeights
        The gradients of one task after the other are held until the weights are known; they are not stacked.
    """
    common, heads = list(shared), [list(h) for h in own] if own is not None else [[] for _ in losses]
    if not common or not losses:
        raise InvalidProblem(f"{'losses' if not losses else 'shared'} is empty; at least one is needed")
    if len(heads) != len(losses):
        raise InvalidProblem(f"own has {len(heads)} entries for {len(losses)} losses")
    gradients = []
    for i, (loss, head) in enumerate(zip(losses, heads, strict=True)):
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InvalidType(f"losses[{i}] is {loss!r}; a tensor with one number is needed")
        keep = i + 1 < len(losses)
        inputs = [*common, *head]
        found = torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True, materialize_grads=True)
        gradients.append(list(found[: len(common)]))
        for parameter, gradient in zip(head, found[len(common) :], strict=True):
            _accumulate(parameter, gradient)
    gram, error = gram_of_differences(gradients)
    result = task_weights(gram, power, max_norm=max_norm, on_failure=on_failure, gram_error=error)
    for parameter, step in zip(common, combine(None, gradients, result.weights), strict=True):
        _accumulate(parameter, step)
    return result


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def check_options(max_norm: Any, on_failure: Any) -> None:
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float) or not 0 <= max_norm < float("inf"):
        raise InvalidProblem(f"max_norm is {max_norm!r}; a number >= 0 is needed, 0 for no limit")
    if on_failure not in FALLBACKS:
        raise InvalidProblem(f"on_failure is {on_failure!r}; choose one of {', '.join(FALLBACKS)}")
