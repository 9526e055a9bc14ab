"""Rows W01-W16 and P03, P07, P13 of the fault table: kills, full disks, two writers, resume, and what verify sees."""

from __future__ import annotations

import copy
import errno
import functools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nashsolve as ns
from nashsolve.cli import main
from nashsolve.integrations.checkpoints import disk, journal, rules, solving, writer
from nashsolve.integrations.checkpoints.errors import (
    CheckpointRefused,
    LockHeld,
    MemoryExceeded,
    OutputFailed,
    ResumeMismatch,
    SolverStopped,
)
from nashsolve.integrations.checkpoints.planning import plan
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.verifying import verify
from tests.checkpoints.build import moe_config, moe_tensors, read_folder, small_moe, write_folder
from tests.checkpoints.fault import FaultyOs, contents, die, fail, in_child, no_space

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

WRITES = ("write", "posix_fallocate", "fsync", "replace", "truncate")
MARK = "nashsolve.json"
SMALL = {"layers": 1, "experts": 4, "hidden": 4, "inner": 4, "vocab": 4}


def recipe(model: Path, **more: Any) -> dict[str, Any]:
    return {"job": "experts", "model": str(model), "groups": {"num_experts_out": 2}, "router": "mean", **more}


@pytest.fixture(params=["sharded", "single"])
def case(request: Any, tmp_path: Path) -> Iterator[tuple[dict[str, Any], Path, dict[str, bytes]]]:
    """A recipe, an output folder, and what an undisturbed run writes."""
    model = small_moe(tmp_path / "m", shards=2 if request.param == "sharded" else 1, **SMALL)
    run(recipe(model), tmp_path / "reference")
    yield recipe(model), tmp_path / "out", contents(tmp_path / "reference")


def assert_not_half(out: Path, reference: dict[str, bytes]) -> None:
    """Whoever looks at the folder sees either nothing that loads, or everything."""
    now = contents(out) if out.is_dir() else {}
    entry_point = "model.safetensors.index.json" if "model.safetensors.index.json" in reference else "model.safetensors"
    if MARK in now:
        assert now == reference
    elif entry_point in now:
        assert {n: now.get(n) for n in reference if n != MARK} == {n: v for n, v in reference.items() if n != MARK}


def assert_resumes(how: dict[str, Any], out: Path, reference: dict[str, bytes]) -> None:
    run(how, out)
    assert contents(out) == reference
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


def test_the_assert_sees_a_half_output(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(AssertionError):
        assert_not_half(tmp_path, {"model.safetensors": b"whole", MARK: b"{}"})


def count_calls(how: dict[str, Any], out: Path) -> int:
    """System calls that write in an undisturbed run."""
    with pytest.MonkeyPatch.context() as patch:
        spy = FaultyOs(WRITES, -1, die).install(patch)
        run(how, out)
    return len(spy.calls)


@pytest.mark.parametrize("names", [pytest.param(WRITES, id="W01-every-call")])
def test_killed_at_every_boundary(names: tuple[str, ...], case: Any, tmp_path: Path) -> None:
    """Before every call that changes the disk, which is also after the one before."""
    how, out, reference = case
    for k in range(count_calls(how, tmp_path / "spied")):

        def killed(k: int = k) -> None:
            with pytest.MonkeyPatch.context() as patch:
                FaultyOs(names, k, die).install(patch)
                run(how, out)

        assert in_child(killed) == -signal.SIGKILL, f"call {k} was not reached"
        assert_not_half(out, reference)
        assert_resumes(how, out, reference)
        shutil.rmtree(out)


@pytest.mark.parametrize("points", [pytest.param(50, id="W01-50-random-points")])
def test_killed_at_random_points(points: int, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", shards=3, hidden=32, inner=48)
    how, out = recipe(model), tmp_path / "out"
    begin = time.perf_counter()
    run(how, tmp_path / "reference")
    whole, reference = time.perf_counter() - begin, contents(tmp_path / "reference")
    rng, killed = random.Random(0), 0
    for _ in range(points):
        killed += in_child(functools.partial(run, how, out), kill_after=max(1e-4, rng.uniform(0, whole))) != 0
        assert_not_half(out, reference)
        if out.is_dir() and (out / MARK).exists():
            assert_resumes(how, out, reference)
            shutil.rmtree(out)
    assert killed > points // 5
    assert_resumes(how, out, reference)


@pytest.mark.parametrize("at", [pytest.param(3, id="W02-early"), pytest.param(12, id="W02-later")])
def test_interrupted(at: int, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        FaultyOs(WRITES, at, interrupt).install(patch)
        with pytest.raises(KeyboardInterrupt):
            run(how, out)
    assert not list(out.rglob(".*.part"))
    assert_not_half(out, reference)
    assert_resumes(how, out, reference)


@pytest.mark.parametrize(
    ("names", "act"),
    [
        pytest.param(("write",), no_space, id="W03-every-write"),
        pytest.param(("posix_fallocate",), no_space, id="W03-every-reservation"),
        pytest.param(("write",), fail(errno.EIO), id="W04-write"),
        pytest.param(("fsync",), fail(errno.EIO), id="W04-fsync"),
        pytest.param(("close",), fail(errno.EIO), id="W04-close"),
        pytest.param(("replace",), fail(errno.EIO), id="W04-rename"),
    ],
)
def test_the_kth_call_fails(names: tuple[str, ...], act: Any, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case
    failures = 0
    while True:
        with monkeypatch.context() as patch:
            spy = FaultyOs(names, failures, act).install(patch)
            try:
                run(how, out)
            except OSError as error:
                if isinstance(error, OutputFailed):
                    assert error.exit_code == 4 and str(error).isprintable()
            else:
                assert len(spy.calls) <= failures, f"failure {failures} was swallowed"
                break
        failures += 1
        assert_not_half(out, reference)
        assert_resumes(how, out, reference)
        shutil.rmtree(out)
    assert failures >= 1
    assert contents(out) == reference


@pytest.mark.parametrize("kind", [pytest.param("message", id="W03-message-has-bytes")])
def test_full_disk_message(kind: str, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, _ = case
    FaultyOs(("posix_fallocate",), 0, no_space).install(monkeypatch)
    with pytest.raises(OutputFailed, match=r"of \d+ bytes: No space left on device; free space and run"):
        run(how, out)


@pytest.mark.parametrize("kind", [pytest.param("order", id="W05-order"), pytest.param("lost", id="W05-lost-rename")])
def test_renames_that_the_disk_forgets(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out = recipe(small_moe(tmp_path / "m", shards=2, **SMALL)), tmp_path / "out"
    run(how, tmp_path / "reference")
    if kind == "order":
        spy = FaultyOs(("replace", "fsync", "write"), -1, die).install(monkeypatch)
        run(how, out)
        names = [(name, str(args[-1]) if name == "replace" else "") for name, args in spy.calls]
        for i, (name, target) in enumerate(names):
            if name == "replace" and target.endswith(".safetensors"):
                assert names[i - 1][0] == "fsync" and [n for n, _ in names[i + 1 : i + 4]] == [
                    "fsync",
                    "write",
                    "fsync",
                ]
        return

    def lose(at: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            FaultyOs(("replace",), at, die, after=True).install(patch)
            run(how, out)

    for at in (1, 2):
        assert in_child(functools.partial(lose, at)) == -signal.SIGKILL
        for path in out.glob("*.safetensors"):
            if path.name not in "".join(p.read_text() for p in out.rglob("journal-*.jsonl")):
                path.unlink()
        assert_resumes(how, out, contents(tmp_path / "reference"))
        shutil.rmtree(out)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("solver", id="W06-solver"),
        pytest.param("gram", id="W06-gram"),
        pytest.param("write", id="W06-write"),
    ],
)
def test_an_exception_finishes_nothing(where: str, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("injected")

    with monkeypatch.context() as patch:
        if where == "solver":
            patch.setattr(rules.ns, "solve", broken)
        elif where == "gram":
            patch.setattr(solving, "centred_gram", broken)
        else:
            patch.setattr(writer, "read_header", broken)
        with pytest.raises(ZeroDivisionError):
            run(how, out)
    assert not [n for n in contents(out) if n.endswith(".json")]
    assert_resumes(how, out, reference)


@pytest.mark.parametrize("lying", [pytest.param(False, id="W07-flock"), pytest.param(True, id="W07-flock-that-lies")])
def test_two_writers(lying: bool, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case
    if lying:
        monkeypatch.setattr(journal, "_flock", lambda descriptor: True)
    held, go = threading.Event(), threading.Event()
    real = disk.create

    def slow(*args: Any) -> int:
        held.set()
        assert go.wait(20)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "create", lambda path, n: slow(path, n) if path.suffix == ".part" and n else real(path, n))
        first = threading.Thread(target=run, args=(how, out))
        first.start()
        assert held.wait(20)
        with pytest.raises(LockHeld) as caught:
            run(how, out)
        assert caught.value.exit_code == 5
        go.set()
        first.join()
    assert contents(out) == reference


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param({"pid": 2**22 + 1, "started": "1"}, id="W07-dead-owner"),
        pytest.param({"pid": os.getpid(), "started": "1"}, id="W07-number-given-anew"),
        pytest.param(None, id="W07-torn-lock"),
    ],
)
def test_stale_locks_are_taken_over(owner: Any, case: Any) -> None:
    how, out, reference = case
    (out / ".nashsolve").mkdir(parents=True)
    import socket

    text = '{"pid": 12' if owner is None else json.dumps({**owner, "host": socket.gethostname()})
    (out / ".nashsolve" / "lock").write_text(text)
    assert_resumes(how, out, reference)


@pytest.mark.parametrize("host", [pytest.param("another-host", id="W07-other-host")])
def test_locks_of_other_hosts_are_respected(host: str, case: Any) -> None:
    how, out, _ = case
    (out / ".nashsolve").mkdir(parents=True)
    (out / ".nashsolve" / "lock").write_text(json.dumps({"pid": 1, "host": host, "started": "1"}))
    with pytest.raises(LockHeld, match="another-host"):
        run(how, out)


def stopped_halfway(how: dict[str, Any], out: Path, at: int = 14) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FaultyOs(WRITES, at, fail(errno.EIO)).install(patch)
        with pytest.raises(OSError):
            run(how, out)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("recipe", id="W08-recipe"),
        pytest.param("input", id="W08-input"),
        pytest.param("version", id="W08-version"),
        pytest.param("paranoid", id="W08-same-header-other-weights"),
    ],
)
def test_resume_after_a_change(change: str, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, _ = case
    model = Path(how["model"])
    paranoid = change == "paranoid"
    with pytest.MonkeyPatch.context() as patch:
        FaultyOs(WRITES, 14, fail(errno.EIO)).install(patch)
        with pytest.raises(OSError):
            run(how, out, paranoid=paranoid)
    if change == "recipe":
        how, match = {**how, "router": "dominant"}, "recipe.router was 'mean', is 'dominant'"
    elif change == "input":
        small_moe(model, shards=2 if (model / "model.safetensors.index.json").exists() else 1, **{**SMALL, "vocab": 5})
        match = "fingerprint"
    elif change == "version":
        monkeypatch.setattr("nashsolve.integrations.checkpoints.plans.__version__", "9.9")
        match = "tool was"
    else:
        file = sorted(model.glob("*.safetensors"))[0]
        raw = bytearray(file.read_bytes())
        raw[-2] ^= 1
        file.write_bytes(raw)
        match = "input_sha256"
    with pytest.raises(ResumeMismatch, match=match) as caught:
        run(how, out, paranoid=paranoid)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("place", [pytest.param(k, id=f"W09-byte-{k}") for k in (0, 40, -1)])
def test_a_finished_shard_that_was_damaged(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out = recipe(small_moe(tmp_path / "m", shards=3)), tmp_path / "out"
    run(how, tmp_path / "reference")
    with monkeypatch.context() as patch:
        patch.setattr("nashsolve.integrations.checkpoints.stages.publish_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(how, out)
    victim = sorted(out.glob("*.safetensors"))[1]
    raw = bytearray(victim.read_bytes())
    raw[place] ^= 1
    victim.write_bytes(raw)
    found = run(how, out)
    assert found.resumed_files == 2 and found.resumed_problems == 2
    assert contents(out) == contents(tmp_path / "reference")


@pytest.mark.parametrize("kind", [pytest.param("foreign", id="W10-foreign"), pytest.param("beside", id="W10-beside")])
def test_foreign_files(kind: str, case: Any) -> None:
    how, out, reference = case
    if kind == "beside":
        stopped_halfway(how, out)
        names = ["notes.txt", ".other.0123456789abcdef0123456789abcdef.part", ".hidden"]
        for name in names:
            (out / name).write_text("mine")
        run(how, out)
        assert all((out / name).read_text() == "mine" for name in names)
        assert {n: v for n, v in contents(out).items() if n != "notes.txt"} == reference
        return
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointRefused, match=r"not empty \('notes.txt'\)"):
        run(how, out)
    assert contents(out) == {"notes.txt": b"mine"}


def command(*words: str, before: Any = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nashsolve.cli", "merge", *words],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def write_recipe(how: dict[str, Any], path: Path) -> str:
    path.write_text(json.dumps(how))
    return str(path)


@pytest.mark.parametrize("kind", [pytest.param("peak", id="W11-peak"), pytest.param("small", id="W11-bound-too-small")])
def test_memory_bound(kind: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", layers=2, experts=8, hidden=512, inner=1024, vocab=8, shared=False)
    weights = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    file = write_recipe(recipe(model), tmp_path / "r.yaml")
    bound = 256 if kind == "peak" else 100
    done = command("run", file, "-o", str(tmp_path / "out"), "--max-memory", f"{bound}MiB", "--json")
    said = json.loads(done.stdout)
    if kind == "small":
        assert done.returncode == 4 and "--max-memory" in said["error"] and not (tmp_path / "out").exists()
        with pytest.raises(MemoryExceeded):
            run(recipe(model), tmp_path / "out", max_memory=2**20)
        return
    assert done.returncode == 0, done.stderr
    assert weights > 48 * 2**20
    assert said["peak_memory_bytes"] < 2**20 * bound
    assert said["peak_memory_bytes"] < plan(recipe(model), max_memory=2**31).peak_bytes + 2**28


STARVED = """
import resource, sys
from pathlib import Path
from nashsolve.cli import main

def run(recipe, out):
    sys.argv = ["nashsolve", "merge", "run", recipe, "-o", out, "-q"]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0

recipe, first, second, room = sys.argv[1:]
assert run(recipe, first) == 0  # everything is loaded now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(room), resource.RLIM_INFINITY))
sys.exit(run(recipe, second))
"""


@pytest.mark.parametrize("room", [pytest.param(10 * 2**20, id="W11-rlimit-as")])
def test_address_space(room: int, tmp_path: Path) -> None:
    """In a process whose large blocks go back to the system when they are free, so that none is left to be used."""
    how, out = recipe(small_moe(tmp_path / "m", hidden=256, inner=512)), tmp_path / "out"
    file = write_recipe(how, tmp_path / "r.yaml")
    done = subprocess.run(
        [sys.executable, "-c", STARVED, file, str(tmp_path / "first"), str(out), str(room)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
    assert not (out / MARK).exists()
    run(how, out)
    assert verify(out, how, load=False).ok


@pytest.mark.parametrize("shards", [pytest.param(200, id="W12-200-shards")])
def test_few_open_files(shards: int, tmp_path: Path) -> None:
    tensors = moe_tensors(layers=2, experts=40, hidden=2, inner=2)
    model = write_folder(tmp_path / "m", tensors, moe_config(40), shards)
    file = write_recipe({**recipe(model), "merge_method": "mean"}, tmp_path / "r.yaml")

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    done = command("run", file, "-o", str(tmp_path / "out"), "-q", before=few)
    assert done.returncode == 0, done.stderr
    assert read_folder(tmp_path / "out").keys() == {t.name for f in plan(recipe(model)).files for t in f.tensors}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("file", id="W13-file-in-the-way"),
        pytest.param("long", id="W13-long-name"),
        pytest.param("read-only", id="W13-read-only"),
        pytest.param("unicode", id="W13-unicode"),
    ],
)
def test_output_paths(kind: str, case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, _, reference = case
    reads: list[int] = []
    monkeypatch.setattr(solving.LayerSolver, "solve", _counted(solving.LayerSolver.solve, reads))
    if kind == "unicode":
        run(how, tmp_path / "aus gabe-\u00e9\u6f22\U0001f600")
        assert contents(tmp_path / "aus gabe-\u00e9\u6f22\U0001f600") == reference
        return
    (tmp_path / "file").write_text("")
    out = tmp_path / ("file" if kind == "file" else "x" * 300)
    if kind == "read-only":
        out = tmp_path / "out"

        def refused(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(out))

        monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OSError):
        run(how, out)
    assert not reads


def _counted(real: Any, calls: list[int]) -> Any:
    def call(*args: Any) -> Any:
        calls.append(1)
        return real(*args)

    return call


@pytest.mark.parametrize("kind", [pytest.param("jump", id="W14-jumps"), pytest.param("same", id="W14-same-second")])
def test_clocks_do_not_matter(kind: str, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case
    if kind == "same":
        for path in Path(how["model"]).iterdir():
            os.utime(path, ns=(10**18, 10**18))
        stopped_halfway(how, out)
        for path in out.rglob("*"):
            os.utime(path, ns=(0, 0))
    else:
        ticks = iter(range(10**9, 0, -1000))
        monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    assert_resumes(how, out, reference)


@pytest.mark.parametrize("kind", [pytest.param("fails", id="W15-fails"), pytest.param("slow", id="W15-bounded")])
def test_background_writes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(recipe(small_moe(tmp_path / "m")))
    release = threading.Event()

    def write_all(*args: Any) -> None:
        if kind == "fails":
            raise OutputFailed(errno.EIO, "broken")
        assert release.wait(20)

    monkeypatch.setattr(disk, "write_all", write_all)
    with pytest.raises(OutputFailed), writer.FileWriter(tmp_path, made.files[0]) as file:
        if kind == "fails":
            for _ in range(100):
                file.put(b"x")
            pytest.fail("the failure never surfaced")
        puts = 0

        def fill() -> None:
            nonlocal puts
            for _ in range(100):
                file.put(b"x")
                puts += 1

        filler = threading.Thread(target=fill)
        filler.start()
        filler.join(0.5)
        assert filler.is_alive() and puts <= 10
        release.set()
        filler.join()
        file.finish()
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(None, id="W16-good"),
        pytest.param("flip", id="W16-flipped-byte"),
        pytest.param("rehash", id="W16-value-with-new-hash"),
        pytest.param("nan", id="W16-nan-with-new-hash"),
        pytest.param("config", id="W16-config"),
        pytest.param("gone", id="W16-file-gone"),
        pytest.param("extra", id="W16-extra-file"),
        pytest.param("unfinished", id="W16-unfinished"),
        pytest.param("other", id="W16-other-source"),
    ],
)
def test_verify(harm: str | None, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", shards=2)
    how, out = recipe(model), tmp_path / "out"
    run(how, out)
    victim = out / "model-00001-of-00002.safetensors"
    if harm in ("flip", "rehash", "nan"):
        value = b"\xc0\x7f" if harm == "nan" else b"\x33\x40"
        _change_value(victim, "model.layers.0.mlp.experts.1.up_proj.weight", value)
    if harm in ("rehash", "nan"):
        mark = json.loads((out / MARK).read_text())
        mark["sha256"][victim.name] = writer.sha256_of(victim)
        (out / MARK).write_text(json.dumps(mark))
    elif harm == "config":
        (out / "config.json").write_text((out / "config.json").read_text().replace("silu", "relu"))
    elif harm == "gone":
        victim.unlink()
    elif harm == "extra":
        shutil.copy(victim, out / "model-00009-of-00009.safetensors")
    elif harm == "unfinished":
        (out / MARK).unlink()
    elif harm == "other":
        small_moe(model, shards=2, seed=9, vocab=17)
    file = write_recipe(how, tmp_path / "r.yaml")
    done = command("verify", str(out), "--recipe", file, "--sample", "1000", "--no-load", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == (0 if harm is None else 1), done.stdout + done.stderr
    text = " ".join(said.get("problems", [])) + said.get("error", "")
    named = {
        "flip": victim.name,
        "rehash": "experts.1.up_proj.weight",
        "nan": "experts.1.up_proj.weight",
        "config": "config.json changed",
        "gone": f"'{victim.name}' is missing",
        "extra": "00009",
        "unfinished": "has no nashsolve.json",
        "other": "planned was",
    }
    assert named.get(str(harm), "") in text


def _change_value(path: Path, name: str, value: bytes) -> None:
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    start = 8 + length + json.loads(raw[8 : 8 + length])[name]["data_offsets"][0]
    raw[start + 6 : start + 8] = value
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "which", [pytest.param(signal.SIGTERM, id="P03-sigterm"), pytest.param(signal.SIGINT, id="W02-sigint")]
)
def test_signals(which: signal.Signals, case: Any, tmp_path: Path) -> None:
    how, out, reference = case
    file = write_recipe(how, tmp_path / "r.yaml")
    ready, says = os.pipe()

    def slow() -> None:
        real = disk.write_all

        def write_all(descriptor: int, data: Any, path: Path) -> None:
            if path.suffix == ".safetensors":
                os.write(says, b"x")
                time.sleep(0.3)
            real(descriptor, data, path)

        disk.write_all = write_all
        sys.argv = ["nashsolve", "merge", "run", file, "-o", str(out), "-q"]
        main()

    sender = threading.Thread(target=lambda: (os.read(ready, 1), _signal_child(which)))
    sender.start()
    code = in_child(slow)
    sender.join()
    assert code == 128 + which
    assert not list(out.rglob(".*.part"))
    for path in out.rglob("journal-*.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines())
    assert not (out / MARK).exists()
    assert_resumes(how, out, reference)


def _signal_child(which: signal.Signals) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(children[-1]), which)


@pytest.mark.parametrize("way", [pytest.param("pickle", id="P07-merge"), pytest.param("copy", id="P07-merge-copy")])
def test_results_round_trip(way: str, case: Any) -> None:
    how, out, _ = case
    for value in (plan(how), run(how, out), verify(out, load=False)):
        again = pickle.loads(pickle.dumps(value)) if way == "pickle" else copy.deepcopy(value)
        assert again.to_dict() == value.to_dict()
    for error in (ResumeMismatch("a"), OutputFailed(28, "b"), SolverStopped("c")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "how_it_fails",
    [
        pytest.param("missing", id="P13-merge-missing"),
        pytest.param("crash", id="P13-merge-crash"),
        pytest.param("none", id="P13-merge-no-answer"),
    ],
)
def test_a_failing_solver(how_it_fails: str, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how, out, reference = case
    pytest.importorskip("cvxpy")
    import cvxpy

    other = {**how, "solver": {"name": "cvxpy"}}
    with monkeypatch.context() as patch:
        if how_it_fails == "missing":
            patch.setitem(sys.modules, "cvxpy", None)
            expected: Any = ns.MissingExtra
        elif how_it_fails == "crash":
            patch.setattr(cvxpy.Problem, "solve", _crash)
            expected = SolverStopped
        else:
            patch.setattr(cvxpy.Problem, "solve", lambda *_, **__: None)
            expected = SolverStopped
        with pytest.raises(expected):
            run(other, out)
        assert not (out / MARK).exists()
        run(how, out.with_name("newton"))
    assert contents(out.with_name("newton")) == reference
    run(other, out)
    assert np.allclose(*(next(iter(read_folder(p).values())) for p in (out, out.with_name("newton"))))


def _crash(*_: Any, **__: Any) -> Any:
    import cvxpy

    raise cvxpy.error.SolverError("injected")
