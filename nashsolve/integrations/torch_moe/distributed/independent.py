"""Bargains that do not depend on each other: all their Grams in one all_reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..bargain import Agreement
from ..chain_config import BargainConfig
from ..domain import DomainGram
from .config import DistributedConfig
from .layout import Layout
from .links import columns_of_whole
from .own_base import OwnBase
from .shard_gram import PartialGram
from .solving import solve_once
from .summed_gram import check_finite_everywhere, sum_up
from .team import Team


class IndependentBargains:
    """Layers with base experts of their own, which no other layer's bargain changes: one collective for all of them.

    Parameters
    ----------
    members : layers, as for `ShardedChain`, each with its own base expert
    config : of every bargain
    settings : how the ranks work together
    ranks : of the default process group that hold these layers; None: all
    name : for messages

    Raises
    ------
    RanksDisagree, RankFailed, InvalidProblem
    """

    def __init__(
        self,
        members: Sequence[Any],
        config: BargainConfig,
        settings: DistributedConfig | None = None,
        ranks: Sequence[int] | None = None,
        name: str = "layers",
    ) -> None:
        self.settings = settings or DistributedConfig()
        self.config, self.name = config, name
        self.team = Team(ranks, self.settings.timeout)
        with self.team.work():
            sources = [member.experts for member in members]
            self.layout = Layout(sources, self.team, name, {"config": config, "settings": self.settings})
            self._own = [OwnBase(member, self.layout) for member in members]
        self._count = 0

    def solve(self) -> list[Agreement]:
        """The agreement of every layer, the same on every rank."""
        room = self.settings.exchange_bytes
        parts = []
        self._count += 1
        with self.team.work(), torch.no_grad():
            for layer, own in zip(self.layout.read(), self._own, strict=True):
                own.look()
                base = columns_of_whole(layer, own.whole(self.layout.dtype))
                part = PartialGram(self.layout, 1, self.config.products, room, self.layout.device)
                part.add([layer], list(self.layout.shapes), base)
                parts.append(part)
            found = sum_up(self.team, parts, {"computations": self._count})
            team = self.team if self.settings.solve == "broadcast" else None
            agreements = []
            for k, (gram, part) in enumerate(zip(found.grams.numpy(), parts, strict=True)):
                check_finite_everywhere(self.team, gram, part.gram, f"layer {k} of {self.name}")
                agreements.append(solve_once(DomainGram(gram, found.error), self.config, None, team))
        return agreements
