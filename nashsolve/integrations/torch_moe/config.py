"""Every choice of a merging layer as a named setting; `MoEConfig.preset` names the published systems."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nashsolve.core.errors import InvalidProblem

from .chain_config import BargainConfig, ChainConfig, MomentumConfig
from .strict import Strict, nearest

__all__ = [
    "BargainConfig",
    "BaseConfig",
    "ChainConfig",
    "CurvatureConfig",
    "MergeConfig",
    "MoEConfig",
    "MomentumConfig",
    "RouterConfig",
]


class RouterConfig(Strict):
    """Which router and its options, handed to `routers.make_router`.

    Attributes
    ----------
    name : of the router
    options : its own settings (top_k, temperature, length of segments, ...)
    """

    name: str = "linear"
    options: dict[str, Any] = Field(default_factory=dict)


class MergeConfig(Strict):
    r"""How the routed experts become one output.

    Attributes
    ----------
    rule : "smoe" mixes the outputs of the selected experts; "smear" merges all parameters with the router's weights;
        "camex" merges domain vectors over the base expert, :math:`E_m + \eta\sum_i M_i(s_i\tau_i)`; "lory" is smear
        for causal segments; "usage" is one average by how often experts are used; "token_nash" lets the experts
        bargain for every token with the router's weights as bargaining power
    eta : step from the base expert to the merged expert. camex needs it; with token_nash over "parameters" it asks for
        a merged expert for every token, :math:`E_m + \eta\sum_i c_i\tau_i`, instead of a mixture of outputs
    selection : "all" uses the router's probabilities of all experts, "selected" its top-k weights
    granularity : "expert" merges both linear layers by one router's answer; "linear" gives the second one a router of
        its own, which is asked about the hidden units after the non-linearity, as the published CAMEx code does
    mask : "ties" keeps the entries whose sign agrees with the sum over experts (camex only), "dropout" drops whole
        experts of a row in training
    dropout : probability of "dropout", in (0, 1)
    dropped : what happens to the weights that are left: "raised" by 1 / (1 - dropout), as in the published CAMEx code,
        or "renormalised" to the sum of all, as in SMEAR
    few_selected : "merge" always uses the rule; "plain_sum" is the published CAMEx code: where fewer than half of the
        experts are selected, their weighted sum without base expert and curvature
    players : of token_nash: "selected" experts or "all" of them
    vectors : of token_nash: the experts' "parameters" relative to the base expert, or their "outputs" for the token
    detach_gram : of token_nash with "outputs": True lets no gradient pass through the inner products of outputs
    usage_decay : of usage: share of the old frequencies kept by `after_step`, in [0, 1)
    """

    rule: Literal["smoe", "smear", "camex", "lory", "usage", "token_nash"] = "smoe"
    eta: float | None = Field(default=None, gt=0)
    selection: Literal["all", "selected"] = "all"
    granularity: Literal["expert", "linear"] = "expert"
    mask: Literal["none", "ties", "dropout"] = "none"
    dropout: float = Field(default=0.1, gt=0, lt=1)
    dropped: Literal["raised", "renormalised"] = "raised"
    few_selected: Literal["merge", "plain_sum"] = "merge"
    players: Literal["selected", "all"] = "selected"
    vectors: Literal["parameters", "outputs"] = "parameters"
    detach_gram: bool = True
    usage_decay: float = Field(default=0.99, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> MergeConfig:
        if self.rule == "camex" and self.eta is None:
            raise ValueError("merge rule 'camex' needs eta, the step from the base expert to the merged expert")
        bargains = self.rule == "token_nash" and self.vectors == "parameters"
        if self.eta is not None and self.rule != "camex" and not bargains:
            raise ValueError(f"merge rule {self.rule!r} takes no eta: it would change nothing")
        self._only_with("camex", "few_selected")
        if self.rule not in ("camex", "smear", "lory") and (self.mask != "none" or self.granularity != "expert"):
            raise ValueError(f"merge rule {self.rule!r} reads neither mask nor granularity: they would change nothing")
        if self.mask == "ties" and self.rule != "camex":
            raise ValueError("merge.mask is 'ties', but only the rule 'camex' has domain vectors: take 'dropout'")
        self._only_with("token_nash", "players", "vectors", "detach_gram")
        if not self.detach_gram and self.vectors != "outputs":
            raise ValueError("merge.detach_gram reads merge.vectors='outputs' only: it would change nothing")
        self._only_with("usage", "usage_decay")
        if (self.dropout != 0.1 or self.dropped != "raised") and self.mask != "dropout":
            raise ValueError("merge.dropout is set, but merge.mask is not 'dropout': it would change nothing")
        if self.rule in ("smoe", "token_nash", "usage") and self.selection != "all":
            raise ValueError(f"merge rule {self.rule!r} reads no selection: it would change nothing")
        return self

    def _only_with(self, rule: str, *names: str) -> None:
        for name in names:
            if self.rule != rule and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"merge.{name} is set, but only the rule {rule!r} reads it: it would change nothing")


class CurvatureConfig(Strict):
    r"""Curvature of the merge, :math:`M_i = \frac1R\sum_r (A_{ri}\otimes A'_{ri})\otimes(B_{ri}\otimes B'_{ri})`.

    Attributes
    ----------
    kind : "identity", or "kronecker" with learned factors that start as identities
    rank : R, number of Kronecker terms
    normalise : True divides by R, so that M starts as the identity; False is the published code, which starts at R
        times the identity
    in_chain : whether the curvature also acts in the propagation of the base expert (as EP-CAMEx has it)
    """

    kind: Literal["identity", "kronecker"] = "identity"
    rank: int = Field(default=1, ge=1)
    normalise: bool = True
    in_chain: bool = False

    @model_validator(mode="after")
    def _fits(self) -> CurvatureConfig:
        if self.kind == "identity" and (self.rank != 1 or not self.normalise or self.in_chain):
            raise ValueError("curvature.kind is 'identity': rank, normalise and in_chain would change nothing")
        return self


class BaseConfig(Strict):
    """Where the base expert comes from.

    Attributes
    ----------
    init : "separate" draws its own feed-forward, "mean_plus_noise" the experts' mean with noise (never the mean itself,
        for which no agreement exists), "copy" one expert, "shared_expert" a slice of the layer's shared expert,
        "given" what `MoE.set_base` receives
    noise : of mean_plus_noise, relative to the size of the mean's entries, > 0
    index : of copy: which expert; of shared_expert: which slice
    trainable : False keeps the base expert as a buffer
    """

    init: Literal["separate", "mean_plus_noise", "copy", "shared_expert", "given"] = "separate"
    noise: float = Field(default=0.1, gt=0)
    index: int = Field(default=0, ge=0)
    trainable: bool = True

    @model_validator(mode="after")
    def _fits(self) -> BaseConfig:
        if self.init not in ("copy", "shared_expert") and self.index:
            raise ValueError(f"base.index would change nothing for init {self.init!r}")
        if self.init != "mean_plus_noise" and self.noise != 0.1:
            raise ValueError(f"base.noise would change nothing for init {self.init!r}")
        if self.init == "shared_expert" and not self.trainable:
            raise ValueError("base.trainable=False does not go with 'shared_expert': the shared expert is trained")
        return self


class MoEConfig(Strict):
    """One mixture-of-experts feed-forward.

    Attributes
    ----------
    d_model, d_hidden : widths
    n_experts : number of routed experts
    activation : "relu", "gelu", "silu", or the gated "swiglu"
    bias : whether the linear layers have biases (which are part of the domain vectors)
    n_shared : shared experts, fused into one feed-forward of width n_shared * d_hidden that every token passes
    router, merge, curvature, base : see their classes
    balance : coefficients of balance losses by name
    chain : None gives each layer a base expert of its own
    """

    d_model: int = Field(ge=1)
    d_hidden: int = Field(ge=1)
    n_experts: int = Field(ge=1)
    activation: Literal["relu", "gelu", "silu", "swiglu"] = "gelu"
    bias: bool = False
    n_shared: int = Field(default=0, ge=0)
    router: RouterConfig = RouterConfig()
    balance: dict[str, float] = Field(default_factory=dict)
    merge: MergeConfig = MergeConfig()
    curvature: CurvatureConfig = CurvatureConfig()
    base: BaseConfig = BaseConfig()
    chain: ChainConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> MoEConfig:
        if self.base.init == "shared_expert" and self.base.index >= self.n_shared:
            raise ValueError(f"base.index is {self.base.index}; there are {self.n_shared} shared experts")
        if self.base.init == "copy" and self.base.index >= self.n_experts:
            raise ValueError(f"base.index is {self.base.index}; there are {self.n_experts} experts")
        if self.curvature.kind != "identity" and self.merge.rule != "camex":
            raise ValueError(f"merge rule {self.merge.rule!r} reads no curvature: it would change nothing")
        if self.curvature.in_chain and self.chain is None:
            raise ValueError("curvature.in_chain changes nothing without a chain")
        if not self.needs_base and self.chain is not None:
            raise ValueError(f"merge rule {self.merge.rule!r} reads no base expert: a chain would change nothing")
        if not self.needs_base and self.base != BaseConfig():
            raise ValueError(f"merge rule {self.merge.rule!r} reads no base expert: base would change nothing")
        if self.chain is not None and self.chain.biases == "follow" and not self.bias:
            raise ValueError("chain.biases='follow' changes nothing for experts with bias=False")
        if self.chain is not None and not self.chain.detach_alpha and self.curvature.in_chain:
            raise ValueError("detach_alpha=False does not go with curvature.in_chain")
        return self

    @property
    def needs_base(self) -> bool:
        """Whether the merge rule reads a base expert."""
        bargains = self.merge.rule == "token_nash" and self.merge.vectors == "parameters"
        return self.merge.rule == "camex" or bargains

    @classmethod
    def preset(cls, system: str, **settings: Any) -> MoEConfig:
        """The settings of a published system by name (see `presets.SYSTEMS`), with `settings` on top.

        Raises
        ------
        InvalidProblem
            For an unknown system, with the nearest name; for one that merges parameters, where the level of the router
            is left open: it decides what is computed, what it costs, and whether later tokens reach earlier ones.
        """
        from .presets import SYSTEMS

        if system not in SYSTEMS:
            raise InvalidProblem(f"system {system!r} is unknown; {nearest(system, sorted(SYSTEMS))}")
        config = cls(**_merged(SYSTEMS[system], settings))
        if config.merge.rule in ("smear", "camex", "lory") and "level" not in config.router.options:
            raise InvalidProblem(
                f"system {system!r} merges parameters: choose router=dict(options=dict(level=...)) as 'sequence' "
                "(encoders, images), 'segment' with segment_length (causal models) or 'token' (costs all experts)"
            )
        return config


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts, `above` winning entry by entry."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, Strict):
            value = value.model_dump(exclude_unset=True)
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        # Another router takes none of the options that were meant for the first one.
        both = both and not (key == "router" and value.get("name", result[key]["name"]) != result[key]["name"])
        result[key] = _merged(result[key], value) if both else value
    return result
