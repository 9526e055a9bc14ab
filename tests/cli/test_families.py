"""Problem files in YAML, `compare` and `plot`."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns
from nashsolve.cli.families import FAMILIES
from nashsolve.cli.formulas import function_of

FILES = {
    "ball": "family: ball\nvectors: [[1, 0.5], [0, 1]]\nradius: 1\n",
    "outcomes": "family: outcomes\npayoffs: [[4, 0], [3, 3], [0, 4]]\nweights: {ann: 5, bob: 1}\nnames: [ann, bob]\n",
    "linear": (
        "family: linear\nutilities: [[1, 0], [0, 1]]\ndomain: {size: 2, radius: 1, matrix: [[1, 0]], limit: 0.5}\n"
    ),
    "functions": (
        "family: functions\nutilities: {union: 'sqrt(x[0])', firm: 'x[1]'}\n"
        "domain: {size: 2, lower: 0, matrix: [[1, 1]], limit: 1}\n"
    ),
    "frontier": "family: frontier\nformula: (1 - u**2) ** 0.5\nspan: [0, 1]\nweights: [3, 1]\n",
    "split": "family: split\ntotal: 100\ndisagreement: [10, 30]\n",
    "fisher": "family: fisher\nvaluations: [[1, 2], [1, 1]]\nbudgets: [3, 1]\n",
    "exchange": "family: exchange\nendowments: [[0.5, 0.3], [0.5, 0.7]]\n",
    "network": "family: network\nrouting: [[1, 1, 0], [1, 0, 1]]\ncapacity: [1, 2]\n",
    "risk": "family: risk\ncovariance: [[0.01, -0.021], [-0.021, 0.09]]\n",
}
ANSWERS = {
    "outcomes": [10 / 3, 2],
    "linear": [0.5, np.sqrt(0.75)],
    "functions": [np.sqrt(1 / 3), 2 / 3],
    "frontier": [np.sqrt(0.75), 0.5],
    "split": [40, 60],
    "fisher": [2.25, 0.75],
    "exchange": [0.397845178155390, 0.602154821844610],
    "network": [0.422649730810374, 0.577350269189626, 1.57735026918963],
}


def put(tmp_path, text, name="p.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_every_family_has_a_file_here():
    assert set(FILES) == set(FAMILIES)


@pytest.mark.parametrize("family", FILES)
def test_every_family_is_solved(run, tmp_path, family):
    ended = run("solve", put(tmp_path, FILES[family]), "--json")
    assert ended.code == 0 and ended.json["success"]
    if family in ANSWERS:
        np.testing.assert_allclose(ended.json["utilities"], ANSWERS[family], rtol=1e-6)
    assert run("solve", put(tmp_path, FILES[family])).out.startswith("Nash bargaining solution - SOLVED")


def test_concept_and_its_options_come_from_the_file_or_the_command_line(run, tmp_path):
    file = put(tmp_path, FILES["functions"] + "concept: alpha_fairness\noptions: {aversion: 3}\n")
    found = run("solve", file, "--json").json
    assert found["concept"] == "alpha_fairness"
    problem = ns.ConvexBargainingProblem([lambda x: x[0] ** 0.5, lambda x: x[1]], ns.simplex(2))
    wanted = ns.solve(problem, concept="alpha_fairness", aversion=3).utilities
    np.testing.assert_allclose(found["utilities"], wanted, rtol=1e-6)
    other = run("solve", file, "--concept", "utilitarian", "--json").json
    np.testing.assert_allclose(other["utilities"], [0.5, 0.75], rtol=1e-6)


def test_options_of_the_command_line_stand_in_place_of_the_files(run, tmp_path):
    file = put(tmp_path, FILES["outcomes"])
    even = run("solve", file, "--weights", "1,1", "--json").json["utilities"]
    np.testing.assert_allclose(even, [3, 3], rtol=1e-6)
    moved = run("solve", file, "--weights", "1,1", "--disagreement", "3,0", "--json").json["utilities"]
    np.testing.assert_allclose(moved, [3.5, 1.5], rtol=1e-6)


BAD = {
    "family": ("family: outcome\n", "Did you mean 'outcomes'?"),
    "key": ("family: split\ntotal: 1\nplayrs: 2\n", "Did you mean 'players'?"),
    "domain key": (FILES["linear"].replace("radius", "radios"), "radios"),
    "missing": ("family: outcomes\n", "payoffs"),
    "value": ("family: outcomes\npayoffs: [[1, x]]\n", "payoffs[0][1]"),
    "twice": ("family: split\ntotal: 1\ntotal: 2\n", "'total' stands twice"),
    "not yaml": ("family: [\n", "is not YAML"),
    "list": ("[1, 2]\n", "no mapping"),
    "object": ("!!python/object/apply:os.getcwd []\n", "is not YAML"),
    "formula": (FILES["functions"].replace("sqrt(x[0])", "__import__(1)"), "only numbers"),
    "index": (FILES["functions"].replace("x[1]", "x[2]"), "run from 0 to 1"),
    "concave": (FILES["functions"].replace("sqrt(x[0])", "x[0]**2"), "not concave"),
    "concept": (FILES["split"] + "concept: nsh\n", "Did you mean 'nash'?"),
    "option": (FILES["split"] + "concept: alpha_fairness\noptions: {aversoin: 2}\n", "Did you mean 'aversion'?"),
    "names": ("family: split\ntotal: 1\nnames: [a, b]\nweights: {a: 1, c: 2}\n", "unknown player 'c'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(run, tmp_path, case):
    text, words = BAD[case]
    ended = run("solve", put(tmp_path, text))
    assert ended.code == 1 and ended.out == ""
    assert ended.err.count("\n") == 1 and words in ended.err, ended.err


def test_options_without_effect_are_refused(run, tmp_path):
    for more in (["--radius", "2"], ["--vectors"]):
        ended = run("solve", put(tmp_path, FILES["split"]), *more)
        assert ended.code == 1 and "no effect" in ended.err
    ended = run("solve", put(tmp_path, FILES["split"]), "--solver", "newton")
    assert ended.code == 1 and "solver has no effect" in ended.err
    assert run("solve", put(tmp_path, FILES["split"]), "--concept", "nsh").code == 2


def test_no_agreement_is_explained(run, tmp_path):
    ended = run("solve", put(tmp_path, "family: split\ntotal: 1\ndisagreement: [0.7, 0.6]\n"))
    assert ended.code == 3 and "largest gain that all can have at once is -0.15" in ended.err


def test_compare(run, tmp_path):
    ended = run("compare", put(tmp_path, FILES["outcomes"]))
    assert ended.code == 0 and "Kalai-Smorodinsky" in ended.out and "ann" in ended.out
    found = run("compare", put(tmp_path, FILES["outcomes"]), "--concepts", "nash,utilitarian", "--json").json
    assert [row["concept"] for row in found["concepts"]] == ["nash", "utilitarian"]
    np.testing.assert_allclose(found["concepts"][0]["utilities"], ANSWERS["outcomes"], rtol=1e-6)
    assert run("compare", put(tmp_path, FILES["outcomes"]), "--concepts", "nsh").code == 2
    opposed = put(tmp_path, '{"vectors": [[1, 0], [-1, 0]]}', "o.json")
    assert run("compare", opposed, "--concepts", "nash").code == 3


@pytest.mark.parametrize("kind", ["auto", "frontier", "gains", "axioms"])
def test_plot(run, tmp_path, kind):
    pytest.importorskip("matplotlib")
    out = tmp_path / "a.png"
    ended = run("plot", put(tmp_path, FILES["outcomes"]), out, "--kind", kind, "--concepts", "nash,egalitarian")
    assert ended.code == 0 and out.stat().st_size > 1000


def test_plot_refusals(run, tmp_path):
    file = put(tmp_path, FILES["outcomes"])
    assert run("plot", file, tmp_path / "a.txt").code == 2
    assert run("plot", file, tmp_path / "a.png", "--kind", "pie").code == 2
    assert run("plot", file, tmp_path / "none" / "a.png", "--concepts", "nash").code == 4
    assert run("plot", file, tmp_path / "a.png", "--kind", "simplex", "--concepts", "nash").code == 1


def test_formulas_compute_what_they_say():
    f = function_of("2 * sqrt(x[0]) - x[1] / 4 + log1p(x[0]) ** 2 - -1", "f", "x", 2)
    x = np.array([4.0, 2.0])
    assert f(x) == pytest.approx(4 - 0.5 + np.log(5) ** 2 + 1)
