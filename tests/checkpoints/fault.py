"""Faults on demand: an operating system whose k-th call fails or kills, and runs in a child process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nashsolve.integrations.checkpoints import disk, journal, writer


class FaultyOs:
    """The module os, except that the k-th call of the named functions does something else first."""

    def __init__(self, names: tuple[str, ...], at: int, act: Callable[[], None], after: bool = False) -> None:
        self._names, self._at, self._act, self._after = names, at, act, after
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._names:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args))
            due = len(self.calls) - 1 == self._at
            if due and not self._after:
                self._act()
            found = real(*args, **kwargs)
            if due and self._after:
                self._act()
            return found

        return call

    def install(self, monkeypatch: Any) -> FaultyOs:
        for module in (disk, journal, writer):
            monkeypatch.setattr(module, "os", self)
        return self


def fail(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(action: Callable[[], Any], kill_after: float | None = None) -> int:
    """Run in a forked process; its exit code, negative for a signal. `kill_after` seconds send SIGKILL."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)
            if kill_after is not None:
                signal.signal(signal.SIGALRM, lambda *_: die())
                signal.setitimer(signal.ITIMER_REAL, kill_after)
            action()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a user sees, by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")}
