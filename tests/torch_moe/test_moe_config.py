"""Settings: unknown names are refused with the nearest one, and so is every setting that would change nothing."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.torch_moe import (
    SYSTEMS,
    BargainConfig,
    BaseConfig,
    ChainConfig,
    CurvatureConfig,
    MergeConfig,
    MoE,
    MoEConfig,
    MomentumConfig,
)
from tests.asserts import assert_message

SIZES = {"d_model": 4, "d_hidden": 4, "n_experts": 3}
CAMEX = {"rule": "camex", "eta": 0.5}


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: MoEConfig(**SIZES, n_expert=3), ["'n_expert'", "did you mean 'n_experts'?"]),
        (
            lambda: MoEConfig(**SIZES, merge={"rule": "camex", "etha": 0.5}),
            ["MergeConfig", "'etha'", "did you mean 'eta'?"],
        ),
        (lambda: ChainConfig(bargain={"sclae": "exact"}), ["did you mean 'scale'?"]),
        (lambda: MoEConfig(**SIZES, merge={"rule": "smaer"}), ["MergeConfig.rule", "'smaer'", "'smear'"]),
        (lambda: MoEConfig(d_model=4, d_hidden=4), ["needs 'n_experts'"]),
        (lambda: MoEConfig(**(SIZES | {"d_model": 0})), ["d_model", "0"]),
        (lambda: MoEConfig(**(SIZES | {"d_model": "4"})), ["d_model", "'4'"]),
        (lambda: MoEConfig.preset("namex_ful", **SIZES), ["'namex_ful'", "namex_full"]),
        (lambda: MoEConfig.preset("smear", **SIZES), ["level"]),
        (lambda: MoE(MoEConfig(**SIZES, router={"name": "lineer"})), ["linear"]),
        (lambda: MoE(MoEConfig(**SIZES, router={"options": {"softmx": "after"}})), ["softmax"]),
    ],
)
def test_unknown_names_and_values(build: Any, parts: list[str]) -> None:
    with pytest.raises(InvalidProblem) as caught:
        build()
    assert_message(caught.value, *parts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MergeConfig(rule="camex"),
        lambda: MergeConfig(rule="smear", eta=0.5),
        lambda: MergeConfig(rule="smear", mask="ties"),
        lambda: MergeConfig(**CAMEX, dropout=0.2),
        lambda: MergeConfig(**CAMEX, dropped="renormalised"),
        lambda: MergeConfig(rule="smoe", mask="dropout"),
        lambda: MergeConfig(rule="smoe", granularity="linear"),
        lambda: MergeConfig(rule="token_nash", granularity="linear"),
        lambda: MergeConfig(rule="smoe", selection="selected"),
        lambda: MergeConfig(rule="smoe", players="all"),
        lambda: MergeConfig(rule="smear", usage_decay=0.5),
        lambda: MergeConfig(rule="token_nash", vectors="parameters", detach_gram=False),
        lambda: CurvatureConfig(rank=2),
        lambda: CurvatureConfig(normalise=False),
        lambda: BaseConfig(index=1),
        lambda: BaseConfig(noise=0.5),
        lambda: BaseConfig(init="mean_plus_noise", noise=0.0),
        lambda: BaseConfig(init="shared_expert", trainable=False),
        lambda: BargainConfig(disagreement="mean"),
        lambda: BargainConfig(disagreement="mean", radius=1.0, radius_factor=2.0),
        lambda: BargainConfig(disagreement="mean", radius_factor=1.0),
        lambda: BargainConfig(disagreement="mean", radius=1.0, solver="ccp"),
        lambda: BargainConfig(radius=1.0),
        lambda: BargainConfig(solver="ccp", iterations=61),
        lambda: BargainConfig(ridge=-1.0),
        lambda: MomentumConfig(beta=0.5),
        lambda: MomentumConfig(kind="real", beta=0.5, phase=0.1),
        lambda: MomentumConfig(kind="complex", beta=1.0),
        lambda: MomentumConfig(kind="quaternion"),
        lambda: MomentumConfig(kind="complex", beta=0.5, quaternion=(0.1, 0.1, 0.1, 0.1)),
        lambda: ChainConfig(interval=0),
        lambda: ChainConfig(bargain="uniform", interval=2),
        lambda: ChainConfig(bargain="uniform", biases="follow"),
        lambda: ChainConfig(bargain="uniform", detach_alpha=False),
        lambda: ChainConfig(detach_alpha=False, detach_chain=True),
        lambda: ChainConfig(detach_alpha=False, bargain=BargainConfig(iterations=2)),
        lambda: ChainConfig(gamma=0.0),
        lambda: MoEConfig(**SIZES, chain=ChainConfig()),
        lambda: MoEConfig(**SIZES, base=BaseConfig(init="copy")),
        lambda: MoEConfig(**SIZES, curvature=CurvatureConfig(kind="kronecker")),
        lambda: MoEConfig(**SIZES, merge=CAMEX, chain=ChainConfig(biases="follow")),
        lambda: MoEConfig(**SIZES, merge=CAMEX, base=BaseConfig(init="copy", index=3)),
        lambda: MoEConfig(**SIZES, merge=CAMEX, base=BaseConfig(init="shared_expert")),
        lambda: MoEConfig(**SIZES, merge=CAMEX, curvature={"kind": "kronecker", "in_chain": True}),
        lambda: MoEConfig(
            **SIZES,
            merge=CAMEX,
            curvature={"kind": "kronecker", "in_chain": True},
            chain=ChainConfig(detach_alpha=False),
        ),
    ],
)
def test_settings_that_would_change_nothing_or_break_are_refused(build: Any) -> None:
    with pytest.raises(InvalidProblem):
        build()


def test_every_system_builds_and_survives_a_round_trip() -> None:
    for system in SYSTEMS:
        eta = {"merge": {"eta": 0.5}} if system.startswith(("camex", "ep_", "namex")) else {}
        config = MoEConfig.preset(system, **SIZES, **eta, router={"options": {"level": "sequence"}})
        assert MoEConfig(**config.model_dump()) == config
        assert MoEConfig(**_as_lists(config.model_dump())) == config, "as JSON or YAML would hand it over"
        MoE(config)


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _as_lists(v) for k, v in value.items()}
    return [_as_lists(v) for v in value] if isinstance(value, tuple | list) else value


def test_presets_keep_what_defines_them_beside_the_users_settings() -> None:
    config = MoEConfig.preset(
        "namex_full_mom", **SIZES, merge={"eta": 0.5}, chain={"gamma": 0.3}, router={"options": {"level": "sequence"}}
    )
    assert config.chain is not None and config.chain.gamma == 0.3 and config.chain.momentum.kind == "complex"
    top1 = MoEConfig.preset("smoe_top1", **SIZES, router={"options": {"softmax": "after"}})
    assert top1.router.options == {"top_k": 1, "softmax": "after"}
    other = MoEConfig.preset("camex_published", **SIZES, router={"name": "linear", "options": {"level": "sequence"}})
    assert other.router.options == {"level": "sequence"}


def test_settings_are_frozen() -> None:
    config = MoEConfig(**SIZES)
    with pytest.raises(Exception, match="frozen"):
        config.d_model = 5
    assert config.changed(d_model=8).d_model == 8
    with pytest.raises(InvalidProblem):
        config.changed(d_modell=8)
