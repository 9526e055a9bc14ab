"""The writer as a state machine: runs, failures, damage, second writers in any order; the bytes never lie."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nashsolve.integrations.checkpoints.errors import CheckpointRefused, LockHeld, OutputFailed, ResumeMismatch
from nashsolve.integrations.checkpoints.journal import WORK, Lock
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify
from tests.checkpoints.build import small_moe
from tests.checkpoints.fault import FaultyOs, contents, no_space

WRITES = ("write", "posix_fallocate", "fsync", "replace")
MARK = "nashsolve.json"


class Writer(RuleBasedStateMachine):
    """Model: the bytes of an undisturbed run, and whether the output was damaged after it was complete."""

    @initialize(shards=st.sampled_from([1, 2]))
    def begin(self, shards: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        model = small_moe(self.folder / "m", layers=1, experts=4, hidden=4, inner=4, vocab=4, shards=shards)
        groups = {"num_experts_out": 2}
        self.recipe = {
            "job": "experts",
            "model": str(model),
            "groups": groups,
            "router": "mean",
            "merge_method": "mean",
        }
        self.out = self.folder / "out"
        run(self.recipe, self.folder / "reference")
        self.reference = contents(self.folder / "reference")
        self.damaged = False

    @rule()
    def work(self) -> None:
        """To the end, unless the finished output was damaged: then the run says so."""
        if self.damaged:
            with pytest.raises(CheckpointRefused):
                run(self.recipe, self.out)
        else:
            run(self.recipe, self.out)
            assert contents(self.out) == self.reference

    @precondition(lambda self: not self.damaged)
    @rule(at=st.integers(0, 60))
    def fail(self, at: int) -> None:
        """Some call finds no space."""
        with pytest.MonkeyPatch.context() as patch:
            FaultyOs(WRITES, at, no_space).install(patch)
            try:
                run(self.recipe, self.out)
            except OSError as error:
                assert isinstance(error, OutputFailed) or error.errno

    @rule()
    def other_recipe(self) -> None:
        """Another plan for the same folder is refused once it was begun."""
        begun = (self.out / WORK / "plan.json").exists() or (self.out / MARK).exists()
        if begun:
            with pytest.raises(ResumeMismatch):
                run({**self.recipe, "router": "dominant"}, self.out)

    @rule()
    def second_writer(self) -> None:
        """While somebody holds the lock, nobody else writes."""
        if (self.out / MARK).exists() or not (self.out / WORK).is_dir():
            return
        before = contents(self.out)
        lock = Lock(self.out / WORK / "lock")
        try:
            with pytest.raises(LockHeld):
                run(self.recipe, self.out)
        finally:
            lock.release()
        assert contents(self.out) == before

    @rule(place=st.integers(0, 10**6), which=st.integers(0, 3))
    def damage(self, place: int, which: int) -> None:
        """A bit flips in a weight file: found by hash, before the end and after it."""
        files = sorted(self.out.glob("*.safetensors")) if self.out.is_dir() else []
        if files:
            file = files[which % len(files)]
            raw = bytearray(file.read_bytes())
            raw[place % len(raw)] ^= 1
            file.write_bytes(raw)
            if (self.out / MARK).exists():
                self.damaged = contents(self.out) != self.reference

    @rule()
    def torn_journal(self) -> None:
        """The last line of the journal was only half written."""
        for path in self.out.glob(f"{WORK}/journal-*.jsonl"):
            path.write_bytes(path.read_bytes()[:-3])

    @rule()
    def start_over(self) -> None:
        """The user deletes the folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.damaged = False

    @invariant()
    def marked_is_whole(self) -> None:
        """The mark stands only on a whole output, and verify knows a damaged one."""
        if not hasattr(self, "out") or not (self.out / MARK).exists():
            return
        if self.damaged:
            assert not verify(self.out, load=False).ok
        else:
            assert contents(self.out) == self.reference

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


TestWriter: Any = Writer.TestCase
TestWriter.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
