"""The chain runs over views of a model's parameters: no stacked copy, and few vectors of an expert's size."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.transformers import convert  # noqa: E402
from tests.transformers.build import MOE, build, levels  # noqa: E402

CAMEX = {"rule": "camex", "eta": 0.5}


class Peak(TorchDispatchMode):
    """Largest number of bytes of storages that were made within it and lived at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage(), before)
        return result

    def count(self, storage: Any, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def test_the_measure_sees_a_stacked_copy() -> None:
    parts = [torch.zeros(1000) for _ in range(5)]
    with Peak() as peak:
        torch.stack(parts).sum()
    assert 20_000 <= peak.peak < 21_000


@pytest.mark.parametrize("name", MOE)
def test_experts_are_views_of_the_models_parameters(name: str) -> None:
    model = build(name)
    merging = convert(
        model, show=False, merge=CAMEX, **levels(name), chain={}, across_dense=name == "switch_transformers"
    )
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for layer in merging.members:
        assert {t.untyped_storage().data_ptr() for t in layer.expert_view().tensors} <= own


@pytest.mark.parametrize("name", ["mixtral", "switch_transformers"])
def test_the_chain_needs_three_vectors_beside_the_base_experts_that_it_returns(name: str) -> None:
    sizes = (
        {"d_model": 64, "d_ff": 96} if name == "switch_transformers" else {"hidden_size": 64, "intermediate_size": 96}
    )
    model = build(name, **sizes)
    merging = convert(
        model, show=False, merge=CAMEX, **levels(name), chain={}, across_dense=name == "switch_transformers"
    )
    each = 4 * merging.members[0].expert_view().size
    for chain in merging.chains:
        with Peak() as peak:
            bases = chain.bases()
        assert len(bases) == len(chain)
        # of the base experts all but the first are new; the stacked copy would be four more
        assert (len(chain) - 1) * each <= peak.peak <= (len(chain) - 1 + 3) * each


def test_experts_that_are_split_over_ranks_are_refused() -> None:
    model = build("mixtral")
    model.model.layers[1].mlp.experts._is_expert_parallel = True
    with pytest.raises(InvalidProblem, match="split over ranks"):
        convert(model, show=False)
