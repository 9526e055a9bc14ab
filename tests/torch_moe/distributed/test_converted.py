"""Models of transformers that merge, on real ranks, train as in one process."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")
pytest.importorskip("transformers")

from tests.torch_moe.distributed import converted
from tests.torch_moe.distributed.compare import assert_close
from tests.torch_moe.distributed.ranks import Ranks


@pytest.mark.parametrize("how", ["ddp", "experts", "columns"])
def test_a_converted_model_trains_as_in_one_process(two: Ranks, how: str) -> None:
    wanted = converted.train_alone(2)
    for rank in two.run(converted.train_together, how, 2):
        assert rank["solved"] == 2
        assert_close(rank["parameters"], wanted)
