"""`nashsolve crosscheck`, `doctor` and `demo`."""

from __future__ import annotations

import numpy as np
import pytest

from nashsolve.backends import catalog
from nashsolve.crosscheck import CrossCheck, CrossCheckRow


def test_crosscheck_lists_every_solver(run, gram_file):
    ended = run("crosscheck", gram_file)
    assert ended.code == 0
    assert all(name in ended.out for name in catalog.names())
    as_json = run("crosscheck", gram_file, "--json").json
    assert [row["solver"] for row in as_json["rows"]] == list(catalog.names())
    assert as_json["exit_code"] == 0


def test_crosscheck_without_agreement(run, opposed_file):
    ended = run("crosscheck", opposed_file, "--json")
    assert ended.code == ended.json["exit_code"] == 3
    assert "NO_AGREEMENT" in ended.json["verdict"]


def test_a_certified_contradiction_is_no_answer():
    from nashsolve.cli.crosscheck import _code
    from nashsolve.solve import solve

    best = solve(np.eye(2))
    rows = (
        CrossCheckRow("a", best, "", 0.0, "agrees"),
        CrossCheckRow("b", best, "", 1.0, "DIFFERS beyond bounds"),
    )
    assert _code(CrossCheck(rows[:1], best, True)) == 0
    assert _code(CrossCheck(rows, best, False)) == 3


def test_doctor(run):
    ended = run("doctor")
    assert ended.code == 0
    assert all(word in ended.out for word in ("numpy", "scipy", "GPU", *catalog.names()))
    as_json = run("doctor", "--json").json
    assert as_json["ok"] and as_json["versions"]["numpy"] == np.__version__
    assert as_json["solvers"]["newton"]["ok"]


def test_doctor_notices_a_broken_solver(run, monkeypatch):
    from nashsolve.cli import doctor

    monkeypatch.setattr(doctor, "_ALPHA", np.array([1.0, 2.1]))
    problem = doctor._known()
    monkeypatch.setattr(doctor, "_ALPHA", np.array([1.0, 2.0]))
    monkeypatch.setattr(doctor, "_known", lambda place: problem)
    ended = run("doctor")
    assert ended.code == 3
    assert "failed its self test" in ended.out


def test_demo(run, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn brings the digits")
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    ended = run("demo", "--out", tmp_path / "new")
    assert ended.code == 0, ended.err
    assert "No agreement exists" in ended.out
    assert (tmp_path / "new" / "nashsolve-demo.png").read_bytes().startswith(b"\x89PNG")
    assert "DIFFERS" not in ended.out


def test_demo_without_scikit_learn_says_what_to_install(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    ended = run("demo")
    assert ended.code == 2
    assert "nashsolve[experiments]" in ended.err
