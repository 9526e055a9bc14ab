"""`nashsolve verify`: any alpha, judged by the data alone."""

from __future__ import annotations

import numpy as np

import nashsolve as ns

from .conftest import GRAM, write_json


def test_right_and_wrong_answers(run, gram_file):
    right = ",".join(repr(float(a)) for a in ns.nash_weights(np.array(GRAM)))
    assert run("verify", gram_file, right).code == 0
    wrong = run("verify", gram_file, "1,1")
    assert wrong.code == 3
    assert "not certified" in wrong.out
    assert run("verify", gram_file, "1,1", "--json").json["exit_code"] == 3


def test_accuracy_asked_for_decides(run, gram_file):
    rough = ",".join(repr(float(a) * (1 + 1e-6)) for a in ns.nash_weights(np.array(GRAM)) * [1, 1.000001])
    assert run("verify", gram_file, rough, "--rtol", "1e-3", "--json").json["status"] == "SOLVED"
    assert run("verify", gram_file, rough, "--rtol", "1e-10", "--json").json["status"] != "SOLVED"


def test_takes_what_solve_printed(run, tmp_path):
    cases = {
        "plain": {"gram": GRAM},
        "active": {"gram": GRAM, "disagreement": [0.1, 0.2], "radius": 1},
        "inside": {"vectors": [[1.0], [-1.0]], "disagreement": [-1, -1], "radius": 5},
        "none": {"vectors": [[1, 0], [-1, 0]]},
        "out_of_reach": {"gram": GRAM, "disagreement": [5, 5], "radius": 1},
    }
    for name, value in cases.items():
        file, answer = write_json(tmp_path / f"{name}.json", value), tmp_path / f"{name}-answer.json"
        solved = run("solve", file, "--json")
        answer.write_text(solved.out)
        judged = run("verify", file, answer, "--json")
        assert judged.code == solved.code, name
        status = solved.json.get("solution", solved.json)["status"]
        assert judged.json["status"] == status, name


def test_takes_arrays(run, gram_file, tmp_path):
    alpha = ns.nash_weights(np.array(GRAM))
    np.save(tmp_path / "a.npy", alpha)
    np.savetxt(tmp_path / "a.csv", alpha)
    write_json(tmp_path / "a.json", alpha.tolist())
    for suffix in ("npy", "csv", "json"):
        assert run("verify", gram_file, tmp_path / f"a.{suffix}").code == 0
    write_json(tmp_path / "b.json", {"beta": [1, 1]})
    assert "no key 'alpha'" in run("verify", gram_file, tmp_path / "b.json").err
