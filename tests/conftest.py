"""Settings shared by all tests: pinned threads, Hypothesis profiles, the repository root on the path."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A test run in the background inherits an ignored Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=_QUIET
)
settings.register_profile("nightly", max_examples=20_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def memory_of_this_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging bounds the memory of the whole process, and this one has what all the tests before have left in it."""
    if request.path.parent.name not in ("checkpoints", "cli", "faults"):
        return
    from nashsolve.integrations.checkpoints import memory

    resident, usual = memory.resident, 300 * 2**20
    surplus = max(0, resident() - usual)
    if surplus:
        monkeypatch.setattr(memory, "resident", lambda: resident() - surplus)
        monkeypatch.setattr(memory, "peak", lambda: resident() - surplus)
