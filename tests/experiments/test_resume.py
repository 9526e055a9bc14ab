"""A killed run goes on as if nothing had happened; two processes share the units of one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments import training
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.recipe import Recipe
from nashsolve.integrations.experiments.runner import run


class Killed(BaseException):
    """What a kill looks like from the inside."""


def numbers(folder: Path) -> dict[str, Any]:
    """Everything but times."""
    book = Book(folder)
    records = {r["key"]: {k: v for k, v in r.items() if "second" not in k and "share" not in k} for r in book.records()}
    return {"records": records, "curves": book.curves()}


@pytest.fixture(scope="module")
def whole(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Numbers of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(small_recipe, folder, jobs=1, show=False).left == 0
    return numbers(folder)


@pytest.mark.parametrize("at", [1, 3, 8])
def test_resumed_curves_are_equal_to_the_last_bit(
    at: int, whole: dict[str, Any], small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    real = torch.optim.AdamW.step

    def step(self: Any, *rest: Any, **more: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == at:
            raise Killed
        return real(self, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(Killed):
            run(small_recipe, tmp_path / "cut", jobs=1, show=False)
    assert Book(tmp_path / "cut").left()
    assert run(small_recipe, tmp_path / "cut", jobs=1, show=False).left == 0
    assert numbers(tmp_path / "cut") == whole


def test_a_resumed_run_repeats_no_saved_step(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    real = training.load_state

    def load(*given: Any) -> Any:
        found = real(*given)
        begun.append(found[0])
        return found

    monkeypatch.setattr(training, "load_state", load)
    calls = 0

    def clip(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        with pytest.raises(Killed):
            run(small_recipe, tmp_path, jobs=1, show=False)
    run(small_recipe, tmp_path, jobs=1, show=False)
    assert begun == [4]


def test_another_run_is_not_continued(small_recipe: Recipe, tmp_path: Path) -> None:
    run(small_recipe, tmp_path / "a", jobs=1, show=False)
    with pytest.raises(InvalidProblem, match=r"eta = 0\.5, not 0\.9"):
        run(small_recipe, tmp_path / "a", jobs=1, show=False, changes={"eta": 0.9})
    assert run(small_recipe, tmp_path / "a", jobs=1, show=False, changes={"eta": 0.9}, fresh=True).left == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not remove")
    with pytest.raises(InvalidProblem, match="will not remove"):
        run(small_recipe, tmp_path / "mine", jobs=1, show=False, fresh=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_seeds_may_be_added(whole: dict[str, Any], small_recipe: Recipe, tmp_path: Path) -> None:
    assert run(small_recipe, tmp_path, jobs=1, show=False, changes={"seeds": 1}).units == 3
    assert run(small_recipe, tmp_path, jobs=1, show=False).units == 5
    found = numbers(tmp_path)
    assert found == whole


def test_units_are_given_out_once(tmp_path: Path) -> None:
    one, other = Book(tmp_path), Book(tmp_path)
    mine = one.todo(["a/0", "a/1"])
    assert next(mine) == "a/0"
    assert next(other.todo(["a/0", "a/1"])) == "a/1"
    one.record("a/0", loss=float("nan"))
    assert one.records()[0]["loss"] is None
    assert list(mine) == ["a/1"]  # the other book's lock went with its generator


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.record("a/0", loss=1.0)
    with (tmp_path / "records.jsonl").open("a") as stream:
        stream.write('{"key": "a/1", "lo')
    book.record("a/2", loss=2.0)
    assert [record["key"] for record in book.records()] == ["a/0", "a/2"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_process_loses_its_units_to_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from nashsolve.integrations.experiments.book import Book\n"
        "for key in Book(sys.argv[1]).todo(['a/0']):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "mine\n"
    assert list(Book(tmp_path).todo(["a/0"])) == []
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    time.sleep(0.05)
    assert list(Book(tmp_path).todo(["a/0"])) == ["a/0"]


def test_processes_share_the_work(whole: dict[str, Any], small_recipe: Recipe, tmp_path: Path) -> None:
    found = run(small_recipe, tmp_path, jobs=2, show=False)
    assert found.left == 0 and found.units == 5
    assert numbers(tmp_path) == whole
