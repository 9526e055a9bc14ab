"""How routed experts become one output, one rule a file; `RULES` names them."""

from .call import MergeCall, MergeRule
from .camex import CamexRule
from .lory import LoryRule
from .smear import SmearRule
from .smoe import SmoeRule
from .token_nash import TokenNashRule
from .usage import UsageRule

RULES: dict[str, type[MergeRule]] = {
    "smoe": SmoeRule,
    "smear": SmearRule,
    "camex": CamexRule,
    "lory": LoryRule,
    "usage": UsageRule,
    "token_nash": TokenNashRule,
}

__all__ = [
    "RULES",
    "CamexRule",
    "LoryRule",
    "MergeCall",
    "MergeRule",
    "SmearRule",
    "SmoeRule",
    "TokenNashRule",
    "UsageRule",
]
