"""Two ranks that train one unit together do what one process does, and go on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.runner import run
from nashsolve.integrations.experiments.team import ALONE
from tests.tolerances import tolerance
from tests.torch_moe.distributed.ranks import Ranks

from . import together

EXACT = tolerance("float64", "rtol")
PATIENCE = 300.0


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`together.work` sets it in this process, too."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def close(one: Any, other: Any, limit: float) -> bool:
    """Whether two trees of numbers have the same shape and are equal to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], limit) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b, limit) for a, b in zip(one, other, strict=True))
    return bool(one == pytest.approx(other, rel=limit)) if isinstance(one, float) else bool(one == other)


@pytest.mark.parametrize("name", ["language_models", "words", "tuned"])
def test_a_team_trains_as_one_process(name: str, two: Ranks, tmp_path: Path) -> None:
    if name == "tuned":
        pytest.importorskip("transformers")
    assert together.work(0, name, tmp_path / "one", False) == "finished"
    assert two.run(together.work, name, tmp_path / "two", True) == ["finished"] * 2
    one, other = together.done(tmp_path / "one"), together.done(tmp_path / "two")
    # The loss of language models is taken in float32.
    assert close(one, other, tolerance("float32", "rtol") if name == "tuned" else EXACT)
    losses = [point["loss"] for curve in one["curves"].values() for point in curve]
    assert len(set(losses)) == len(losses) >= 6
    assert json.loads((tmp_path / "two" / "run.json").read_text())["data_parallel"] == 2
    assert not (tmp_path / "two" / "work").exists()


def test_other_balance_would_be_seen(two: Ranks, tmp_path: Path) -> None:
    """The comparison above fails where the balance loss is not that of the whole batch."""
    two.run(together.work, "language_models", tmp_path / "a", True)
    two.run(together.work, "language_models", tmp_path / "b", True, None, {"balance": 0.2})
    a, b = (together.done(tmp_path / name)["records"] for name in "ab")
    assert not close(a["smoe_top2/0"], b["smoe_top2/0"], EXACT) and close(a["namex_full/0"], b["namex_full/0"], EXACT)


@pytest.mark.parametrize("name", ["language_models", "words"])
def test_a_killed_team_goes_on_to_the_last_bit(name: str, two: Ranks, tmp_path: Path) -> None:
    assert two.run(together.work, name, tmp_path / "whole", True) == ["finished"] * 2
    assert two.run(together.work, name, tmp_path / "cut", True, 6) == ["killed"] * 2
    (folder,) = (f for f in (tmp_path / "cut" / "work").iterdir() if f.name != "shared")
    assert sorted(f.name for f in folder.iterdir()) == [f"rank{k}of2-step4.safetensors" for k in (0, 1)]
    assert two.run(together.work, name, tmp_path / "cut", True) == ["finished"] * 2
    assert together.done(tmp_path / "cut") == together.done(tmp_path / "whole")


def test_only_steps_that_every_rank_has_count(two: Ranks, tmp_path: Path) -> None:
    """A kill between the ranks' writes leaves one of them ahead."""
    two.run(together.work, "language_models", tmp_path / "whole", True)
    two.run(together.work, "language_models", tmp_path / "cut", True, 4)
    (folder,) = (tmp_path / "cut" / "work").iterdir()
    (folder / "rank0of2-step4.safetensors").write_bytes((folder / "rank0of2-step2.safetensors").read_bytes())
    assert two.run(together.work, "language_models", tmp_path / "cut", True) == ["finished"] * 2
    assert together.done(tmp_path / "cut") == together.done(tmp_path / "whole")


def test_a_team_of_another_size_does_not_go_on(two: Ranks, tmp_path: Path) -> None:
    two.run(together.work, "language_models", tmp_path / "two", True, 4)
    assert "was begun by 2 ranks; go on with as many" in together.work(0, "language_models", tmp_path / "two", False)
    assert together.work(0, "language_models", tmp_path / "one", False, 4) == "killed"
    found = two.run(together.work, "language_models", tmp_path / "one", True)
    assert all("was begun by one process; go on with as many" in sentence for sentence in found)


def test_what_a_team_refuses(two: Ranks, tmp_path: Path) -> None:
    found = two.run(together.work, "language_models", tmp_path / "odd", True, None, {"batch": 3})
    assert found == ["a batch of 3 does not divide among 2 ranks"] * 2
    with pytest.raises(InvalidProblem, match="torchrun"):
        run(together.language_models(), tmp_path / "alone", show=False, data_parallel=True)
    recipe = together.find_recipe("mini-x2-stability")
    with pytest.raises(InvalidProblem, match="'stability_region' does not divide its batches"):
        run(recipe, tmp_path / "toy", show=False, data_parallel=True)


def test_adaptive_clusters_are_those_of_the_whole_batch(two: Ranks) -> None:
    alone = together.clusters(0, False)
    found = two.run(together.clusters, True)
    assert found[0] == found[1] and close(found[0], alone, EXACT)


def test_gradients_of_some_ranks_only(two: Ranks) -> None:
    assert two.run(gradients) == [[[1.0, 1.0], [2.0, 0.0], None]] * 2


def gradients(rank: int) -> list[Any]:
    """Means of: one that both have, one that the leader has, one that nobody has."""
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 2.0 * rank)
    if rank == 0:
        parameters[1].grad = torch.tensor([4.0, 0.0])
    with together.joined("cpu") as team:
        team.average(parameters)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def test_alone_nothing_changes() -> None:
    batch = torch.arange(3)
    assert ALONE.share(batch) is batch and ALONE.say(5) == 5 and ALONE.mean(0.1) == 0.1 and ALONE.weight(7) == 1.0


def torchrun(recipe: Path, out: Path, *more: str) -> None:
    """The command of the documentation, with two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "nashsolve.cli", "experiment", "run", str(recipe), "--out", str(out), "--quiet", *more]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as agent:
        try:
            _, told = agent.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, signal.SIGKILL)  # the ranks, too
            raise
    assert agent.returncode == 0, told


def test_torchrun_shares_units_or_batches(write_recipe: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = together.language_models().changed(name="mini-test")
    file = write_recipe(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    run(recipe, tmp_path / "one", jobs=1, show=False)
    torchrun(file, tmp_path / "units")
    torchrun(file, tmp_path / "batches", "--data-parallel")
    one = together.done(tmp_path / "one")
    units, batches = (together.done(tmp_path / name / "mini-test") for name in ("units", "batches"))
    assert units == one
    single = tolerance("float32", "rtol")
    assert batches["records"].keys() == one["records"].keys()
    for key, curve in one["curves"].items():
        assert [p["loss"] for p in batches["curves"][key]] == pytest.approx([p["loss"] for p in curve], rel=single)
    assert not Book(tmp_path / "batches" / "mini-test").left()
