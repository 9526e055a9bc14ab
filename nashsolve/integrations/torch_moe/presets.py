"""The systems of the published tables as settings.

`eta` is never published and stays the user's choice, and so does the level of the router where parameters are merged.
Names that end in "_published" make the choices of the public papers and code, flaws included.
"""

from __future__ import annotations

import math
from typing import Any

_PROPAGATED: dict[str, Any] = {"merge": {"rule": "camex"}}
_COMPLEX: dict[str, Any] = {"kind": "complex", "beta": 0.9, "phase": math.pi / 6}
_QUATERNION: dict[str, Any] = {"kind": "quaternion", "quaternion": (0.8, 0.3, 0.3, 0.3)}
# Steps that keep the published momenta inside the exact region of stability, where gamma = 1 would leave it.
_STEP = {"complex": 1.0, "quaternion": 0.25}


def _chain(alpha: str, momentum: dict[str, Any] | None = None) -> dict[str, Any]:
    chain: dict[str, Any] = {"gamma": 1.0}
    if alpha == "uniform":
        chain["bargain"] = "uniform"
    else:
        chain["bargain"] = {"solver": "newton"}
        chain["interval"] = "once" if alpha == "once" else 1
    if momentum is not None:
        chain["momentum"] = momentum
        chain["gamma"] = _STEP[momentum["kind"]]
    return _PROPAGATED | {"chain": chain}


SYSTEMS: dict[str, dict[str, Any]] = {
    "smoe_top1": {
        "merge": {"rule": "smoe"},
        "router": {"name": "linear", "options": {"top_k": 1}},
    },
    "smoe_top2": {
        "merge": {"rule": "smoe"},
        "router": {"name": "linear", "options": {"top_k": 2}},
    },
    "smoe_top1_published": {
        "merge": {"rule": "smoe"},
        "router": {"name": "linear", "options": {"top_k": 1, "softmax": "after"}},
    },
    "smear": {"merge": {"rule": "smear"}},
    "smear_published": {
        "merge": {"rule": "smear", "mask": "dropout", "dropout": 0.1, "dropped": "renormalised"},
        "router": {"name": "linear", "options": {"norm": True}},
    },
    "lory": {"merge": {"rule": "lory"}},
    "usage": {"merge": {"rule": "usage"}},
    "token_nash": {
        "merge": {"rule": "token_nash", "vectors": "outputs"},
        "router": {"name": "linear", "options": {"top_k": 2}},
    },
    "camex": {
        "merge": {"rule": "camex", "mask": "ties"},
        "curvature": {"kind": "kronecker", "rank": 1},
    },
    "camex_published": {
        "merge": {
            "rule": "camex",
            "eta": 1.0,
            "granularity": "linear",
            "mask": "ties",
            "few_selected": "plain_sum",
        },
        "curvature": {"kind": "kronecker", "rank": 8, "normalise": False},
        "base": {"init": "copy"},
        "router": {"name": "noisy_topk", "options": {"count_padding": True}},
    },
    "ep_camex": _chain("uniform"),
    "ep_camex_mom": _chain("uniform", _COMPLEX),
    "ep_camex_q": _chain("uniform", _QUATERNION),
    "namex": _chain("once"),
    "namex_mom": _chain("once", _COMPLEX),
    "namex_q": _chain("once", _QUATERNION),
    "namex_full": _chain("every"),
    "namex_full_mom": _chain("every", _COMPLEX),
    "namex_full_q": _chain("every", _QUATERNION),
}
"""Names of `MoEConfig.preset`: only what defines the system; widths, router, eta and the rest are given beside it."""
