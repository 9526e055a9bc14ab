"""The working folder of a run: lock, plan and journal, and what of an earlier run can be trusted."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import disk
from .errors import CheckpointRefused, LockHeld, ResumeMismatch
from .header import show

WORK = ".nashsolve"
COMPLETE = "nashsolve.json"


class Lock:
    """An exclusive claim on an output folder: a file made with O_EXCL that names its owner, plus flock.

    The claim of a dead process on this host is taken over; one from another host is respected.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._acquire()

    def release(self) -> None:
        """Give the claim back."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _acquire(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            descriptor = self._take_over()
        if not _flock(descriptor):
            os.close(descriptor)
            raise LockHeld(f"another process is writing to {self.path.parent.parent.name}")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_me()).encode(), 0)
            os.fsync(descriptor)
        except OSError:
            self.path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor

    def _take_over(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            owner = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
        except ValueError:
            owner = {}
        free = _flock(descriptor)
        if not free or _alive(owner):
            os.close(descriptor)
            who = f"process {owner.get('pid', '?')} on {show(owner.get('host', 'this host'))}"
            raise LockHeld(
                f"{who} is writing to {self.path.parent.parent.name}; if it is surely gone, delete "
                f"{WORK}/{self.path.name}"
            )
        return descriptor


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """Start of a process in clock ticks since boot: what tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(owner: Mapping[str, Any]) -> bool:
    """True when the owner may still be at work; an owner that cannot be judged is taken to be."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not owner.get("started") or owner["started"] == _started(pid)


class Journal:
    """Lines of finished work in the output's working folder; only whole lines count."""

    def __init__(self, out: Path, rank: int = 0) -> None:
        self.out = out
        self.folder = out / WORK
        self.path = self.folder / f"journal-{rank}.jsonl"

    def append(self, record: Mapping[str, Any]) -> None:
        """A line that is on the disk when this returns."""
        line = json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with disk.told("write", self.path, len(line)):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                disk.write_all(descriptor, line, self.path)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every whole line of every rank; a torn one ends its file."""
        for path in sorted(self.folder.glob("journal-*.jsonl")):
            raw = path.read_bytes()
            for line in raw.split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:
                    break
                if isinstance(record, dict):
                    yield record

    def mend(self) -> None:
        """Cut a torn last line off, so that the next line begins a line."""
        for path in sorted(self.folder.glob("journal-*.jsonl")):
            raw = path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            if whole != len(raw):
                os.truncate(path, whole)

    def clear(self) -> None:
        """Remove the working folder of a completed run."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(out: Path, identity: Mapping[str, Any], names: set[str]) -> tuple[Journal, Lock, bool]:
    """Claim the output folder for a plan; the last value is True when the output is complete already.

    Parameters
    ----------
    out : output folder, made if absent
    identity : what must be equal to go on
    names : file names of the plan, whose side files may be removed

    Raises
    ------
    CheckpointRefused, LockHeld, ResumeMismatch, OutputFailed
    """
    with disk.told("make the folder", out):
        out.mkdir(parents=True, exist_ok=True)
    work = out / WORK
    ours = work.is_dir() or (out / COMPLETE).is_file()
    if not ours and any(out.iterdir()):
        some = sorted(entry.name for entry in out.iterdir())[:5]
        raise CheckpointRefused(f"{out.name} is not empty ({', '.join(map(show, some))}); give a new folder")
    finished = _completed(out)
    if finished is not None:
        _same_plan(finished, identity)
        shutil.rmtree(work, ignore_errors=True)
        return Journal(out), _NoLock(), True
    with disk.told("make the folder", work):
        work.mkdir(exist_ok=True)
    with disk.told("lock", work):
        lock = Lock(work / "lock")
    try:
        plan = work / "plan.json"
        if plan.exists():
            _same_plan(json.loads(plan.read_text()), identity)
        else:
            disk.publish(plan, json.dumps(identity, indent=1, sort_keys=True).encode())
        journal = Journal(out)
        journal.mend()
        _sweep(out, journal, names)
    except BaseException:
        lock.release()
        raise
    return journal, lock, False


class _NoLock(Lock):
    """Nothing to hold: the output is complete and will not be written."""

    def __init__(self) -> None:
        pass

    def release(self) -> None:
        """Nothing to give back."""


def _completed(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / COMPLETE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise CheckpointRefused(f"{out.name}/{COMPLETE} is damaged; give a new folder") from None
    plan = found.get("plan") if isinstance(found, dict) else None
    if found.get("status") != "complete" or not isinstance(plan, dict):
        raise CheckpointRefused(f"{out.name}/{COMPLETE} is not a completion mark; give a new folder")
    return plan


def _same_plan(before: Any, now: Mapping[str, Any]) -> None:
    found = list(differences(before, json.loads(json.dumps(now))))
    if found:
        raise ResumeMismatch(
            "the output folder was begun with another plan, so it cannot be continued; differences: "
            + "; ".join(found[:8])
            + ". Give a new folder, or run what was begun."
        )


def differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two plain values differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{place}.{i}")
    elif before != now:
        yield f"{place} was {show(before)}, is {show(now)}"


def _sweep(out: Path, journal: Journal, names: set[str]) -> None:
    """Remove side files that an earlier run of this plan left, but for those its journal vouches for."""
    kept = {record.get("part") for record in journal.records()}
    pattern = re.compile(r"\.(.+)\.[0-9a-f]{32}\.part")
    for folder in (out, journal.folder):
        for entry in folder.iterdir():
            match = pattern.fullmatch(entry.name)
            if match and entry.name not in kept and (folder != out or match[1] in names):
                entry.unlink(missing_ok=True)
