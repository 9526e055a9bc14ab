"""What can go wrong with checkpoints, each with the exit code it ends in."""

from __future__ import annotations

from nashsolve.core.errors import NashSolveError


class CheckpointRefused(NashSolveError, ValueError):
    """An input file, folder or recipe that is hostile, damaged or unsupported; nothing was written."""

    exit_code = 1


class SolverStopped(NashSolveError):
    """A bargaining problem of the merge ended without a certified answer."""

    exit_code = 3


class OutputFailed(NashSolveError, OSError):
    """A disk or memory limit stopped the run; what is on disk is marked unfinished and can be resumed."""

    exit_code = 4


class MemoryExceeded(NashSolveError, MemoryError):
    """The stated memory bound does not suffice; nothing is published beyond the finished shards."""

    exit_code = 4


class LockHeld(NashSolveError):
    """Another process writes to this output folder."""

    exit_code = 5


class ResumeMismatch(NashSolveError):
    """The output folder belongs to another plan; the message holds the differences."""

    exit_code = 6
