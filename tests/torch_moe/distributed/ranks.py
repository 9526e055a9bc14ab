"""Real processes over gloo, kept for many checks: each runs the same function of a test module on its rank."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOAD = [
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint",
    "nashsolve.integrations.torch_moe.distributed.chain",
    "nashsolve.integrations.torch_moe.layer",
]
PATIENCE = 100.0


class Ranks:
    """A process group of `size` processes, started from a server that has imported torch already."""

    def __init__(self, size: int, backend: str = "gloo") -> None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        meeting = str(Path(self._folder.name) / "meeting")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, backend, meeting, there), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(rank, *arguments)`` on every rank; raises what the first failing rank said."""
        found = self.try_run(function, *arguments)
        for rank, answer in enumerate(found):
            if isinstance(answer, Failure):
                raise AssertionError(f"rank {rank} failed:\n{answer.text}")
        return found

    def try_run(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE) -> list[Any]:
        """The same; a `Failure` where a rank raised or died, and an error where one does not answer."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        return [self.answer(rank, patience) for rank in range(self.size)]

    def answer(self, rank: int, patience: float = PATIENCE) -> Any:
        """One rank's answer to what it was sent."""
        if not self.pipes[rank].poll(patience):
            raise TimeoutError(f"rank {rank} does not answer within {patience:g} s")
        try:
            return self.pipes[rank].recv()
        except EOFError:
            return Failure("gone", "the process is gone")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        for pipe in self.pipes:
            pipe.close()
        self._folder.cleanup()


class Failure:
    """What a rank raised, as text."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text


def _serve(rank: int, size: int, backend: str, meeting: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(meeting, size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(rank, *arguments)
        except Exception as error:
            answer = Failure(type(error).__name__, f"{error}\n{traceback.format_exc()}")
        pipe.send(answer)
