"""A merge over several processes writes the bytes of one process, and resumes across numbers of processes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nashsolve.integrations.checkpoints import stages
from nashsolve.integrations.checkpoints.arithmetic import OnProcessor, OnTorch, choose
from nashsolve.integrations.checkpoints.errors import CheckpointRefused
from nashsolve.integrations.checkpoints.gram import LANES, centred_gram
from nashsolve.integrations.checkpoints.ranks import Alone
from nashsolve.integrations.checkpoints.running import run
from tests.checkpoints.build import read_folder, small_moe
from tests.checkpoints.fault import contents

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def recipe(model: Path, **more: Any) -> dict[str, Any]:
    found = {"job": "experts", "model": str(model), "groups": {"num_experts_out": 3}, "router": "combine"}
    return {**found, "base_expert": "chain", "chain": {"beta": [0.3, 0.2]}, "scaling_factor": 0.9, **more}


def free_port() -> int:
    """Below the ports that the system hands out by itself, so that nobody takes it before rank 0 listens there."""
    for port in np.random.default_rng(os.getpid()).permutation(np.arange(12_000, 30_000)):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", int(port))) != 0:
                return int(port)
    raise OSError("no free port")


def torchrun(ranks: int, file: Path, out: Path) -> list[subprocess.CompletedProcess[str]]:
    """What torchrun starts, without it: one process a rank, told apart by the environment."""
    port = free_port()
    words = [sys.executable, "-m", "nashsolve.cli", "merge", "run", str(file), "-o", str(out), "--json", "-q"]
    started = []
    for rank in range(ranks):
        env = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env |= {"GLOO_SOCKET_IFNAME": "lo", **{k: v for k, v in os.environ.items() if k not in env}}
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env))
    done = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=100)
            done.append(subprocess.CompletedProcess(words, process.returncode, output, errors))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return done


@needs_torch
@pytest.mark.parametrize("ranks", [2, 4])
def test_same_bytes_as_one_process(ranks: int, tmp_path: Path) -> None:
    how = recipe(small_moe(tmp_path / "m", layers=3, hidden=64, inner=96, shards=3, first=0.5))
    run(how, tmp_path / "one")
    (tmp_path / "r.yaml").write_text(json.dumps(how))
    done = torchrun(ranks, tmp_path / "r.yaml", tmp_path / "many")
    assert [d.returncode for d in done] == [0] * ranks, done[0].stderr[-2000:]
    assert json.loads(done[0].stdout)["ranks"] == ranks and not any(d.stdout for d in done[1:])
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@needs_torch
def test_by_torchrun_itself(tmp_path: Path) -> None:
    how = recipe(small_moe(tmp_path / "m", layers=2, shards=2))
    run(how, tmp_path / "one")
    (tmp_path / "r.yaml").write_text(json.dumps(how))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [sys.executable, "-m", "nashsolve.cli", "merge", "run", str(tmp_path / "r.yaml")]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    words = [*launch, *command, "-o", str(tmp_path / "many"), "-q"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@needs_torch
def test_many_continue_what_one_began_and_refuse_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = recipe(small_moe(tmp_path / "m", layers=2, shards=3))
    run(how, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "publish_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(how, tmp_path / "out")
    victim = sorted((tmp_path / "out").glob("*.safetensors"))[0]
    victim.unlink()
    (tmp_path / "r.yaml").write_text(json.dumps(how))
    done = torchrun(2, tmp_path / "r.yaml", tmp_path / "out")
    assert [d.returncode for d in done] == [0, 0], done[0].stderr[-2000:]
    assert json.loads(done[0].stdout)["resumed_files"] == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    (tmp_path / "r.yaml").write_text(json.dumps({**how, "scale": "unit"}))
    done = torchrun(2, tmp_path / "r.yaml", tmp_path / "out")
    assert [d.returncode for d in done] == [6, 6], done[1].stderr[-2000:]


class Blocks:
    """Vectors in memory, for the Gram alone."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def read(self, part: str, start: int, count: int, check: bool = True) -> np.ndarray:
        return self.values[start : start + count]


class Rank(Alone):
    """One rank of several that run one after another in this process."""

    def __init__(self, rank: int, size: int, sums: list[np.ndarray]) -> None:
        self.rank, self.size, self._sums = rank, size, sums

    def all_sum(self, values: np.ndarray) -> np.ndarray:
        self._sums.append(values)
        return np.asarray(sum(self._sums[1:], self._sums[0]))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 20])
def test_gram_is_the_same_for_any_number_of_ranks(size: int) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((5, 300_000)) + 3).astype(np.float32)
    vectors, parts = [Blocks(r) for r in rows], (("all", 300_000),)
    whole = centred_gram(vectors, parts, 5, 4, OnProcessor(), Alone())
    sums: list[np.ndarray] = []
    found = [centred_gram(vectors, parts, 5, 4, OnProcessor(), Rank(r, size, sums)) for r in range(size)]
    np.testing.assert_array_equal(found[-1].matrix, whole.matrix)
    exact = rows.astype(np.float64)
    centred = exact - exact.mean(0)
    np.testing.assert_allclose(whole.of(np.eye(5)), exact @ exact.T, rtol=1e-12)
    np.testing.assert_allclose(whole.matrix[:5, :5], centred @ centred.T, rtol=1e-9, atol=1e-8)
    assert len(sums[0]) == LANES


def test_gram_error_is_a_bound_where_vectors_are_nearly_equal() -> None:
    """Differences a millionth of the vectors: the centred sums keep them, and the stated error holds."""
    from fractions import Fraction

    rng = np.random.default_rng(1)
    rows = (rng.standard_normal(500) + 1e-6 * rng.standard_normal((3, 500))).astype(np.float32)
    gram = centred_gram([Blocks(r) for r in rows], (("all", 500),), 3, 4, OnProcessor(), Alone())
    taus = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    found, error = gram.of(taus), gram.error_of(taus)
    exact = [[Fraction(float(v)) for v in row] for row in rows]
    d = [[a - b for a, b in zip(exact[i], exact[2], strict=True)] for i in (0, 1)]
    true = np.array([[float(sum(a * b for a, b in zip(x, y, strict=True))) for y in d] for x in d])
    size = np.sqrt(np.outer(np.diagonal(true), np.diagonal(true)))
    assert (np.abs(found - true) <= error * size).all() and error < 1e-9


@needs_torch
def test_torch_computes_the_same_merge(tmp_path: Path) -> None:
    """The code path of a GPU, on the processor."""
    how = recipe(small_moe(tmp_path / "m", hidden=32, inner=48))
    run(how, tmp_path / "numpy", device="cpu")
    found = run(how, tmp_path / "torch", device="torch:cpu")
    assert found.device == "cpu" and isinstance(choose("torch:cpu"), OnTorch)
    one, two = read_folder(tmp_path / "numpy"), read_folder(tmp_path / "torch")
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=2**-7, atol=1e-6)


@needs_torch
@pytest.mark.parametrize("device", ["cuda:7", "nonsense"])
def test_devices_that_are_not_there(device: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="cannot be used"):
        run(recipe(small_moe(tmp_path / "m")), tmp_path / "out", device=device)


@pytest.mark.gpu
@needs_torch
def test_gpu(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    how = recipe(small_moe(tmp_path / "m", hidden=32, inner=48))
    run(how, tmp_path / "cpu", device="cpu")
    assert run(how, tmp_path / "gpu").device == "cuda"
    one, two = read_folder(tmp_path / "cpu"), read_folder(tmp_path / "gpu")
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=2**-7, atol=1e-6)
