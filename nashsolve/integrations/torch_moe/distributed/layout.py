"""The experts of some layers over the ranks: found once, agreed on by all ranks, read anew before every use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nashsolve.core.errors import InvalidProblem

from ..fingerprint import versions
from .partition import make_partition
from .parts import Held, hold, is_fused, local_of, read_experts
from .team import Team


class Layout:
    """Who holds what of the experts of several layers that lie over the ranks alike.

    Parameters
    ----------
    sources : experts of every layer, as `read_experts` takes them
    team : all ranks that hold experts of these layers, or copies
    name : for messages
    agreed : what else all ranks must have in common, name -> value

    Attributes
    ----------
    partition, shapes, n : of one layer; slot -> shape of one expert; number of experts
    shards, twins : teams of this replica and of the ranks that hold the same; None for this rank alone
    cut : slot -> whether a rank has fewer than all experts
    peers : slot -> team of the ranks with the same columns of other experts, None where this rank has all or none

    Raises
    ------
    RanksDisagree, InvalidProblem
    """

    def __init__(self, sources: Sequence[Any], team: Team, name: str, agreed: dict[str, Any]) -> None:
        self.team, self.name, self._sources = team, name, list(sources)
        self._seen: list[dict[str, list[Any]]] = [{} for _ in sources]
        layers = self._read()
        first = layers[0]
        self.n = next(iter(first.values())).n
        self.shapes = {slot: held.shape for slot, held in first.items()}
        kinds = {"slots": list(self.shapes), "shapes": list(self.shapes.values()), "number of experts": self.n}
        dtypes = [str(h.tensors[0].dtype) for h in first.values()]
        team.check_same({**kinds, "dtypes": dtypes, "number of layers": len(layers), "ranks": team.ranks, **agreed})
        self.table = team.share({slot: held.box for slot, held in first.items()})
        whole = {slot: (held.n, held.shape) for slot, held in first.items()}
        self.partition = make_partition(self.table, team.rank, whole)
        self._boxes = {slot: held.box for slot, held in first.items()}
        replicas = self.partition.replicas
        self.shards = self._team(replicas)
        self.twins = self._team(list(zip(*replicas, strict=True)))
        self.cut = {
            slot: any(box.rows != (0, self.n) for box in share.boxes) for slot, share in self.partition.slots.items()
        }
        self.peers = {
            slot: self._team([[replica[k] for k in peers] for replica in replicas for peers in share.all_peers])
            for slot, share in self.partition.slots.items()
        }

    @property
    def device(self) -> torch.device:
        """Of this rank's shards."""
        return local_of(next(iter(self._seen[0].values()))[0]).device

    @property
    def dtype(self) -> torch.dtype:
        """In which the chain computes: float64 for float64 parameters, float32 for all others."""
        dtypes = {tensor.dtype for held in self._read()[0].values() for tensor in held.tensors}
        return torch.float64 if dtypes == {torch.float64} else torch.float32

    @property
    def copies(self) -> int:
        """Number of replicas."""
        return len(self.partition.replicas)

    def lengths(self, own: Sequence[Tensor], slots: Sequence[str]) -> list[Tensor]:
        """Lengths of expert-sized vectors from those of the columns that this rank's experts have; one all_reduce."""
        squares = torch.stack([torch.as_tensor(length, dtype=torch.float64) for length in own]) ** 2
        share = self.partition.slots[slots[0]]
        # Ranks with the same columns of other experts have the same part of the vector.
        total = (squares / max(len(share.peers), 1)).to(self.device)
        if self.shards is not None:
            self.shards.all_reduce(total)
        return list(total.sqrt().cpu())

    def read(self) -> list[dict[str, Held]]:
        """Every layer's experts as they are now; raises InvalidProblem where they lie otherwise than at first."""
        layers = self._read()
        for k, layer in enumerate(layers):
            if {slot: held.box for slot, held in layer.items()} != self._boxes:
                raise InvalidProblem(
                    f"layer {k} of {self.name} lies over the ranks otherwise than layer 0 did when this was built; "
                    "all layers of a chain need the same placements, and a new chain after resharding"
                )
        return layers

    def state(self) -> list[tuple[Any, ...]]:
        """Where the experts are stored, and their version counters: those of unsharded parameters as last seen; and
        what those counters do not show."""
        found = [state_of(value) for layer in self._seen for values in layer.values() for value in values]
        return [*found, tuple(versions(()))]

    def look(self) -> bool:
        """Take notice of the parameters; whether all of them are sharded as they were."""
        sharded = True
        for k, source in enumerate(self._sources):
            now = read_experts(source)
            if _unsharded(now, self._seen[k]):
                sharded = False
            else:
                self._seen[k] = now
        return sharded

    def _read(self) -> list[dict[str, Held]]:
        if not self.look():
            raise InvalidProblem(
                f"FSDP has gathered experts of {self.name} (after a forward pass without resharding): call "
                "model.reshard() of the FSDP modules first, or chain.attach(model), which does so"
            )
        fused = [is_fused(source) for source in self._sources]
        return [
            {slot: hold(slot, values, whole) for slot, values in layer.items()}
            for layer, whole in zip(self._seen, fused, strict=True)
        ]

    def _team(self, sets: Iterable[Sequence[int]]) -> Team | None:
        """This rank's team among sets of places."""
        return self.team.split([self.team.ranks[k] for k in places] for places in sets)


def _unsharded(now: dict[str, list[Any]], seen: dict[str, list[Any]]) -> bool:
    return any(
        isinstance(before, DTensor) and not isinstance(value, DTensor)
        for slot, values in now.items()
        for value, before in zip(values, seen.get(slot, ()), strict=False)
    )


def state_of(value: Any) -> tuple[Any, ...]:
    local = local_of(value)
    # Operations on a DTensor count at the DTensor, whose local tensor does not hear of them.
    own = getattr(value, "tensor", value)
    return local.data_ptr(), local.shape, local.dtype, local._version, own._version, torch.typename(own)
