"""What is merged in a model, and by which weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nashsolve.core.errors import InvalidProblem

from ..torch_moe.config import BaseConfig, ChainConfig, CurvatureConfig, MergeConfig, MoEConfig
from ..torch_moe.strict import Strict

Level = Literal["token", "sequence", "segment"]
Way = Literal["experts_function", "block"]
POOLED = ("smear", "camex", "lory")
"""Rules that merge parameters with weights of tokens, segments or sequences."""


class MergingConfig(Strict):
    """What conversion and upcycling have in common.

    Attributes
    ----------
    merge : rule and its step eta
    learn_eta : make eta a parameter of every layer that starts at ``merge.eta``
    level : of stacks that see a whole sequence (encoders, images): one merged expert for each "token", "segment" or
        "sequence"
    causal_level : of causal stacks. "sequence" lets later tokens reach earlier ones: for classification, not for
        language models
    segment_length : real tokens in a segment
    first : by what the first segment of a causal stack is routed: a "learned" vector, or "zero"
    curvature, base, chain : as in `MoEConfig`; one base expert for every chain, or for every layer without a chain
    across_dense : True lets a chain pass layers without experts; False starts another one after them
    """

    merge: MergeConfig = MergeConfig()
    learn_eta: bool = False
    level: Level | None = None
    causal_level: Level | None = None
    segment_length: int | None = Field(default=None, ge=1)
    first: Literal["learned", "zero"] = "learned"
    curvature: CurvatureConfig = CurvatureConfig()
    base: BaseConfig = BaseConfig()
    chain: ChainConfig | None = None
    across_dense: bool = False

    @model_validator(mode="after")
    def _fits(self) -> MergingConfig:
        levels = (self.level, self.causal_level)
        if self.merge.granularity != "expert":
            raise ValueError(
                "merge.granularity='linear' needs a router for each linear layer, and a block of transformers has one: "
                "use MoE layers for it"
            )
        if self.merge.rule not in POOLED and levels != (None, None):
            raise ValueError(f"merge rule {self.merge.rule!r} works on tokens: level would change nothing")
        if self.merge.rule == "lory" and {*levels} - {None, "segment"}:
            raise ValueError("merge rule 'lory' merges segments; use 'smear' for other levels")
        if (self.segment_length is not None) != ("segment" in levels):
            raise ValueError("segment_length belongs to the level 'segment', and is needed there")
        if self.first != "learned" and self.causal_level != "segment":
            raise ValueError("first is read for causal segments only: it would change nothing")
        if self.learn_eta and self.merge.rule != "camex":
            raise ValueError("learn_eta needs merge.rule='camex': no other rule learns eta")
        if "across_dense" in self.model_fields_set and self.across_dense and self.chain is None:
            raise ValueError("across_dense changes nothing without a chain")
        return self

    @property
    def neutral(self) -> bool:
        """Whether the model computes what it computed before."""
        return self.merge.rule == "smoe"

    def level_of(self, causal: bool) -> Level:
        """The level of a stack; raises InvalidProblem where it was not chosen."""
        if self.merge.rule not in POOLED:
            return "token"
        found = self.causal_level if causal else self.level
        if found is None:
            name, kind = ("causal_level", "causal") if causal else ("level", "bidirectional")
            raise InvalidProblem(
                f"the model has a {kind} stack: choose {name}, which decides what is computed, what it costs, and "
                "whether later tokens reach earlier ones"
            )
        return found

    def layer(self, **sizes: Any) -> MoEConfig:
        """The settings of one layer of the given sizes, checked together."""
        parts: dict[str, Any] = {
            "merge": self.merge,
            "curvature": self.curvature,
            "base": self.base,
            "chain": self.chain,
        }
        return MoEConfig(**sizes, **parts)


class ConvertConfig(MergingConfig):
    """Settings of `convert`; the default is neutral: the model computes what it computed before, bit for bit.

    Attributes
    ----------
    way : "experts_function" registers a function with transformers and selects it; "block" puts a block that shares
        the old one's parts in its place. Experts that are single modules (Switch) or lie over ranks always take the
        block
    """

    way: Way = "experts_function"
