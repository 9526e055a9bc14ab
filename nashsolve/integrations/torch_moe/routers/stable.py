"""StableMoE router: learn to route, distil the decisions into token ids, then freeze them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nashsolve.core.errors import InvalidProblem

from ..balance.losses import expert_counts
from ..router_output import RouterOutput
from .base import Router, Rows, linear
from .checks import not_negative, whole
from .dropping import check_capacity, drop


class StableRouter(Router):
    r"""Top-1 routing in two stages.

    Stage 1: :math:`a_t = \arg\max_e x_t^\top E_e` with weight :math:`\sigma(x_t^\top E_{a_t})`, and two losses,

    .. math:: L_{bal} = \sum_e \frac{|A_e| - \bar n}{\bar n} \sum_{t \in A_e} \sigma(x_t^\top E_e), \qquad
       L_{dis} = -\sum_t \log \mathrm{softmax}(D w_t)_{a_t}

    where :math:`A_e` are the tokens of expert e, :math:`\bar n` the mean of their numbers and :math:`w_t` a small
    embedding of the token's id. Stage 2, after `first_stage_steps` calls of `after_step`: a is the argmax of the
    distilled scores :math:`D w_t`, which are frozen; the weight stays :math:`\sigma(x_t^\top E_{a_t})`. As in the
    published code, evaluation takes the distilled scores in stage 1, too.

    The original expert holds a residual inside, so its output :math:`\sigma f(x) + (1-\sigma) x` with
    :math:`f(x) = x + \mathrm{ffn}(x)` is :math:`x + \sigma\,\mathrm{ffn}(x)`, which a layer within a residual stream
    gives.

    Parameters
    ----------
    d_model, n_experts : as in Router
    top_k : 1
    vocab_size : number of token ids; `input_ids` must be passed in the call
    first_stage_steps : optimizer steps of stage 1, >= 0
    distill_dim : length of w
    balance, distill : coefficients of the two losses, >= 0
    reduction : "sum" over tokens as published, or "mean"
    evaluate_distilled : False evaluates stage 1 by the scores that it trains with
    capacity_factor, drop_order : as in SoftmaxRouter

    Notes
    -----
    `logits` and `probs` are those of the scores that choose: x'E, or D w where it is distilled. Where a row is a
    segment or a sequence, w is the mean embedding of its tokens. Source: [stablemoe2022]_
    """

    steps: Tensor

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int | None = 1,
        *,
        vocab_size: int,
        first_stage_steps: int = 6000,
        distill_dim: int = 50,
        balance: float = 0.3,
        distill: float = 0.3,
        reduction: str = "sum",
        evaluate_distilled: bool = True,
        capacity_factor: float | None = 2.0,
        drop_order: str = "arrival",
    ) -> None:
        super().__init__(d_model, n_experts, 1 if top_k is None else top_k)
        if self.top_k != 1:
            raise InvalidProblem(f"top_k is {top_k}; StableMoE routes to one expert")
        if isinstance(first_stage_steps, bool) or not isinstance(first_stage_steps, int) or first_stage_steps < 0:
            raise InvalidProblem(f"first_stage_steps is {first_stage_steps!r}; a whole number >= 0 is needed")
        if reduction not in ("sum", "mean"):
            raise InvalidProblem(f"reduction is {reduction!r}; 'sum' or 'mean' is needed")
        self.vocab_size = whole("vocab_size", vocab_size)
        self.first_stage_steps, self.reduction = first_stage_steps, reduction
        self.evaluate_distilled = evaluate_distilled
        self.balance, self.distill = not_negative("balance", balance), not_negative("distill", distill)
        self.capacity_factor = check_capacity(capacity_factor, drop_order)
        self.drop_order = drop_order
        self.centroids = nn.Parameter(torch.empty(n_experts, d_model))
        nn.init.orthogonal_(self.centroids, gain=0.1)
        self.token_embedding = nn.Embedding(vocab_size, whole("distill_dim", distill_dim))
        self.distilled = nn.Linear(distill_dim, n_experts, bias=False)
        nn.init.orthogonal_(self.distilled.weight, gain=0.1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._enter(2 if first_stage_steps == 0 else 1)

    def route(self, rows: Rows) -> RouterOutput:
        """Choose by the scores of the stage, weigh by the gate."""
        scores = linear(rows.hidden, self.centroids)
        logits = scores
        if self.stage == 2 or (self.evaluate_distilled and not self.training):
            with torch.no_grad():
                logits = self._distilled_logits(rows)
        index = logits.argmax(dim=-1, keepdim=True)
        weight = scores.gather(-1, index).sigmoid()
        output = RouterOutput(
            logits.softmax(dim=-1), index, weight, logits, row_mask=rows.mask, n_sequences=rows.n_sequences
        )
        if self.stage == 1 and self.training:
            output.losses.update(self._losses(rows, scores, index))
        return drop(output, self.capacity_factor, self.drop_order)

    @torch.no_grad()
    def after_step(self) -> None:
        """Count an optimizer step; the last one of stage 1 freezes the distilled router."""
        self.steps.add_(1)
        if self.stage == 1 and int(self.steps) >= self.first_stage_steps:
            self._enter(2)

    def _enter(self, stage: int) -> None:
        self.stage = stage
        for parameter in (self.token_embedding.weight, self.distilled.weight):
            parameter.requires_grad_(stage == 1)

    def _distilled_logits(self, rows: Rows) -> Tensor:
        """D w with w the mean embedding of a row's tokens."""
        if rows.ids is None:
            raise InvalidProblem("StableMoE distils from token ids: pass input_ids=... to the router or the layer")
        word = self.token_embedding(rows.ids).to(rows.hidden.dtype)
        if rows.ids_mask is not None:
            share = rows.ids_mask.to(word.dtype)
            word = word * (share / share.sum(-1, keepdim=True).clamp(min=1))[..., None]
            return linear(word.sum(1), self.distilled.weight)
        return linear(word.mean(1), self.distilled.weight)

    def _losses(self, rows: Rows, scores: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Balance and distillation of stage 1, times their coefficients."""
        here = torch.ones_like(scores[:, 0]) if rows.mask is None else rows.mask.to(scores.dtype)
        counts = expert_counts(index, self.n_experts, rows.mask).to(scores.dtype)
        mean = counts.mean().clamp(min=1 / self.n_experts)
        surplus = ((counts - mean) / mean)[index[:, 0]]
        gate = scores.gather(-1, index)[:, 0].sigmoid()
        log_probs = self._distilled_logits(rows).log_softmax(dim=-1).gather(-1, index)[:, 0]
        share = 1.0 if self.reduction == "sum" else 1 / here.sum().clamp(min=1)
        return {
            "stable_balance": self.balance * share * (surplus * gate * here).sum(),
            "stable_distill": -self.distill * share * (log_probs * here).sum(),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._enter(2 if int(self.steps) >= self.first_stage_steps else 1)
