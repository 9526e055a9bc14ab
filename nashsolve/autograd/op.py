"""alpha as one operator of torch: for torch.compile, torch.func, vmap and double backward, without graph breaks."""

from __future__ import annotations

from typing import Any

import torch

from nashsolve.backends.newton import Newton
from nashsolve.core.certificate import certify
from nashsolve.core.errors import NoAgreement, SolverFailed
from nashsolve.core.problem import BargainingProblem
from nashsolve.core.solution import build
from nashsolve.core.status import Status

Tensor = torch.Tensor


def takes_over(*values: Any) -> bool:
    """Whether a call with these arguments is part of a graph: being compiled, transformed or differentiated."""
    if torch.compiler.is_compiling():
        return True
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def nash_weights(gram: Tensor, weights: Any = None) -> Tensor:
    r"""alpha (..., n) with ``A alpha = w / alpha``, differentiable any number of times by `gram` and `weights`.

    The operator ``torch.ops.nashsolve.nash_weights``: torch.compile sees one node, vmap one batched solve, and the
    backward pass factors one matrix, :math:`H = A + \mathrm{diag}(w / \alpha^2)`:
    :math:`v = H^{-1} \bar\alpha`, :math:`\bar w = v / \alpha`, :math:`\bar A = -\mathrm{sym}(v \alpha^\top)`.

    Parameters
    ----------
    gram : (..., n, n) floating tensor, symmetric and positive semidefinite
    weights : (..., n) positive, optional
        Ones by default.

    Returns
    -------
    tensor (..., n), float64 for float64, else float32

    Raises
    ------
    InvalidProblem, NoAgreement, SolverFailed
        As soon as one item has no certified answer.
    """
    if weights is None:
        weights = gram.new_ones(gram.shape[-1])
    return Weights.apply(gram, torch.as_tensor(weights, dtype=gram.dtype, device=gram.device))


@torch.library.custom_op("nashsolve::nash_weights", mutates_args=())
def _operator(gram: Tensor, weights: Tensor) -> Tensor:
    engine = Newton()
    problem = BargainingProblem(gram=gram.detach(), weights=weights.detach())
    raw = engine.solve(problem, None)
    goal = 1e-10 if problem.kind == "float64" else 1e-5
    proof = certify(problem, raw.alpha, raw.coefficients)
    solution = build(problem, proof, goal, raw.stopped, n_iter=raw.n_iter, solver=engine.name)
    if not solution.success:
        none = bool((torch.as_tensor(solution.status) == int(Status.NO_AGREEMENT)).any())
        raise (NoAgreement if none else SolverFailed)(solution.message, solution)
    return solution.alpha.clone()


@_operator.register_fake
def _(gram: Tensor, weights: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(gram.shape[:-1], weights.shape)
    return gram.new_empty(shape, dtype=gram.dtype if gram.dtype == torch.float64 else torch.float32)


class Weights(torch.autograd.Function):
    """The operator with its derivative and its rule for vmap, both in differentiable operations."""

    @staticmethod
    def forward(gram: Tensor, weights: Tensor) -> Tensor:
        return _operator(gram, weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        gram, weights, alpha = ctx.saved_tensors
        a, w, x, y = gram.double(), weights.double(), alpha.double(), bar.double()
        m = x[..., :, None] * a * x[..., None, :] + torch.diag_embed(w.expand_as(x))
        factor = torch.linalg.cholesky_ex(m)[0]
        v = x * torch.cholesky_solve((x * y)[..., None], factor)[..., 0]
        outer = v[..., :, None] * x[..., None, :]
        bar_a = -(outer + outer.mT) / 2
        return bar_a.sum_to_size(gram.shape).to(gram.dtype), (v / x).sum_to_size(weights.shape).to(weights.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, gram: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        """The mapped axis becomes the first batch axis of both: one batched solve."""
        size, (at_gram, at_weights) = info.batch_size, in_dims
        gram = gram.expand(size, *gram.shape) if at_gram is None else gram.movedim(at_gram, 0)
        weights = weights.expand(size, *weights.shape) if at_weights is None else weights.movedim(at_weights, 0)
        missing = gram.ndim - 1 - weights.ndim
        if missing > 0:
            weights = weights.reshape(size, *[1] * missing, *weights.shape[1:])
        elif missing < 0:
            gram = gram.reshape(size, *[1] * -missing, *gram.shape[1:])
        return Weights.apply(gram, weights), 0
