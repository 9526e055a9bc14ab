"""How a dense model becomes one of experts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..torch_moe.config import BaseConfig, ChainConfig, MergeConfig, RouterConfig
from .config import MergingConfig


class UpcycleConfig(MergingConfig):
    r"""Settings of `upcycle`.

    At the start all experts are copies of the dense feed-forward: all domain vectors are zero, no agreement exists, and
    router and curvature get no gradient. What is done about it is a choice with consequences:

    - "jitter": experts get noise that sums to zero over the experts, and the router starts at zero, so that uniform
      weights merge to the dense feed-forward;
    - "held": experts are exact copies, the base expert is one of them, and the chain holds it where no agreement
      exists. The router starts at random: it alone breaks the symmetry, and gets no gradient in the first step.

    In both, the merged expert is the dense feed-forward for eta = 1 and weights that sum to one, whatever the base
    expert is. eta = 1 for ever would be SMEAR, so eta is learned by default.

    Attributes
    ----------
    experts : in every upcycled feed-forward
    every : upcycle every this many feed-forwards of a stack, the last of each group (2: every second one, as Switch)
    start : "jitter" or "held"
    jitter : standard deviation of the noise relative to that of a tensor's entries
    seed : of the noise
    router : of every feed-forward; decides about rows of the stack's level
    """

    experts: int = Field(default=8, ge=2)
    every: int = Field(default=1, ge=1)
    start: Literal["jitter", "held"] = "jitter"
    jitter: float = Field(default=0.01, gt=0)
    seed: int = 0
    router: RouterConfig = RouterConfig()
    merge: MergeConfig = MergeConfig(rule="camex", eta=1.0)
    learn_eta: bool = True
    base: BaseConfig = BaseConfig(init="mean_plus_noise")
    chain: ChainConfig | None = ChainConfig()
    across_dense: bool = True

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """Defaults that go with the rule and the start that were chosen."""
        if not isinstance(values, dict):
            return values
        merge = values.get("merge")
        rule = merge.get("rule", "smoe") if isinstance(merge, dict) else getattr(merge, "rule", "camex")
        found: dict[str, Any] = {}
        if rule != "camex":
            found = {"learn_eta": False, "chain": None, "base": {}}
        elif values.get("start") == "held":
            found = {"base": {"init": "copy"}}
        return found | values

    @property
    def neutral(self) -> bool:
        """Never: the dense feed-forwards are gone."""
        return False

    @model_validator(mode="after")
    def _starts(self) -> UpcycleConfig:
        if self.start == "held" and "jitter" in self.model_fields_set:
            raise ValueError("start='held' copies exactly: jitter would change nothing")
        if self.merge.rule == "camex" and self.start == "held" and self.base.init not in ("copy", "given"):
            raise ValueError("start='held' holds a copy: it needs base.init='copy'")
        if "level" in self.router.options or "segment_length" in self.router.options:
            raise ValueError("level and segment_length are settings of upcycling, not of its router")
        return self
