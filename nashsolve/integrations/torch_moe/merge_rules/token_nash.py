r"""Token-level Nash merging: experts bargain for every token, with the router's weights as bargaining power.

The players' vectors are their outputs for the token (without agreement the layer adds nothing to the residual stream),
or their parameters relative to the base expert. The shares c of the agreement are multiplied by the sum of the router's
weights of the players, so that one selected expert gets what top-1 routing gives it, and then mix

- the outputs of the players, :math:`y = \sum_i c_if_i(x)`, at the cost of top-k routing and k(k+1)/2 inner products, or
- with eta, their parameters, :math:`E_m + \eta\sum_i c_i\tau_i`, evaluated exactly at the cost of all experts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..config import MoEConfig
from ..domain import domain_gram
from ..fingerprint import Fingerprint
from .affine import evaluate
from .call import MergeCall, MergeRule
from .dispatch import all_outputs, mix, selected_outputs
from .token_bargain import token_shares


class TokenNashRule(MergeRule):
    """Bargains of the selected experts (two in closed form) or of all of them.

    Attributes
    ----------
    opposed : share of the tokens of the last call whose players could not agree and took the router's weights
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.opposed: Tensor | None = None
        self._gram: tuple[Fingerprint, Tensor] | None = None

    def forward(self, call: MergeCall) -> Tensor:
        index, power = self._players(call)
        x = call.hidden.reshape(-1, call.hidden.shape[-1])
        if self.settings.vectors == "outputs":
            outputs = selected_outputs(x, index, call.experts) if self._some else all_outputs(x, call.experts)
            with torch.autocast(x.device.type, enabled=False):
                vectors = (outputs.detach() if self.settings.detach_gram else outputs).to(power.dtype)
                weights = self._coefficients(torch.matmul(vectors, vectors.mT), power)
            return mix(outputs, weights).reshape(call.hidden.shape)
        gram = self._parameter_gram(call).to(power)
        weights = self._coefficients(gram[index[:, :, None], index[:, None, :]], power)
        if self.settings.eta is None:
            outputs = selected_outputs(x, index, call.experts) if self._some else all_outputs(x, call.experts)
            return mix(outputs, weights).reshape(call.hidden.shape)
        return self._merged(call, index, weights)

    @property
    def _some(self) -> bool:
        return self.settings.players == "selected"

    def _players(self, call: MergeCall) -> tuple[Tensor, Tensor]:
        """Players (tokens, k) and their bargaining power."""
        if self._some:
            return call.per_token(call.output.topk_index), call.per_token(call.output.topk_weight)
        probs = call.per_token(call.output.probs)
        return torch.arange(probs.shape[-1], device=probs.device).expand_as(probs), probs

    def _coefficients(self, gram: Tensor, power: Tensor) -> Tensor:
        shares, opposed = token_shares(gram, power)
        self.opposed = opposed.detach().to(power.dtype).mean()
        return shares * power.sum(-1, keepdim=True)

    def _merged(self, call: MergeCall, index: Tensor, weights: Tensor) -> Tensor:
        n = call.experts.n_experts
        c = torch.zeros(len(weights), n, dtype=weights.dtype, device=weights.device).scatter_add(1, index, weights)
        c = float(self.settings.eta or 0.0) * c
        rows = replace(call, level="token")
        return evaluate(rows, self.activation, 1 - c.sum(-1), c)

    @torch.compiler.disable
    def _parameter_gram(self, call: MergeCall) -> Tensor:
        """Gram of the domain vectors, computed when a parameter has changed."""
        tensors = [*call.view.tensors, *call.base.values()]
        if self._gram is None or not self._gram[0].matches(tensors):
            gram = torch.from_numpy(domain_gram(call.view, call.base).gram)
            self._gram = Fingerprint(tensors), gram.to(call.hidden.device)
        return self._gram[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"opposed": None, "_gram": None}
