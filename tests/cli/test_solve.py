"""`nashsolve solve`: formats, options, answers and exit codes."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns

from .conftest import GRAM, VECTORS, write, write_json


@pytest.mark.parametrize("suffix", [".json", ".npz", ".npy", ".csv"])
@pytest.mark.parametrize("vectors", [False, True])
def test_every_format_gives_the_library_answer(run, tmp_path, suffix, vectors):
    flag = ["--vectors"] if vectors and suffix in (".npy", ".csv") else []
    ended = run("solve", write(tmp_path, suffix, vectors), *flag, "--json")
    problem = ns.BargainingProblem(vectors=np.array(VECTORS)) if vectors else ns.BargainingProblem(gram=GRAM)
    assert ended.code == 0 and ended.err == ""
    assert ended.json["status"] == "SOLVED"
    assert ended.json["alpha"] == ns.solve(problem).alpha.tolist()


def test_people_see_a_table_with_names(run, gram_file):
    ended = run("solve", gram_file)
    assert ended.code == 0
    assert "ann" in ended.out and "SOLVED" in ended.out


def test_json_list_is_a_bare_matrix(run, tmp_path):
    assert run("solve", write_json(tmp_path / "a.json", GRAM)).code == 0
    rows = write_json(tmp_path / "v.json", VECTORS)
    assert run("solve", rows, "--vectors").code == 0
    assert run("solve", rows).code == 1


def test_options_override_the_file_and_change_the_answer(run, tmp_path):
    file = write_json(tmp_path / "p.json", {"gram": GRAM, "weights": [1, 1], "radius": 1})
    plain = run("solve", file, "--json").json["alpha"]
    for more in (["--weights", "1,3"], ["--disagreement", "-0.1,0.1"], ["--radius", "2"]):
        changed = run("solve", file, *more, "--json")
        assert changed.code == 0
        assert changed.json["alpha"] != plain, more


@pytest.mark.parametrize("suffix", [".json", ".npy", ".csv"])
def test_weights_from_a_file(run, gram_file, tmp_path, suffix):
    file = tmp_path / f"w{suffix}"
    if suffix == ".json":
        write_json(file, [1, 3])
    elif suffix == ".npy":
        np.save(file, np.array([1.0, 3.0]))
    else:
        file.write_text("1\n3\n")
    listed = run("solve", gram_file, "--weights", "1, 3", "--json").json["alpha"]
    assert run("solve", gram_file, "--weights", file, "--json").json["alpha"] == listed


def test_solver_options(run, gram_file):
    assert run("solve", gram_file, "--solver", "closed_form", "--json").json["solver"] == "closed_form"
    stopped = run("solve", gram_file, "--max-iter", "0", "--weights", "1,50", "--json")
    assert stopped.code == 3
    assert stopped.json["solution"]["status"] == "MAX_ITER"
    floor = run("solve", gram_file, "--rtol", "0", "--weights", "1,50", "--json")
    assert floor.json["status"] == "SOLVED_INACCURATE"


def test_unknown_choices_are_usage_errors(run, gram_file):
    for more in (["--solver", "newtn"], ["--on-failure", "ignore"], ["--no-such-option"]):
        assert run("solve", gram_file, *more).code == 2
    ended = run("solve", gram_file, "--solver", "newtn", "--json")
    assert ended.json["exit_code"] == 2
    assert "newton" in ended.err


def test_no_agreement_says_who_blocks(run, opposed_file):
    ended = run("solve", opposed_file)
    assert ended.code == 3 and ended.out == ""
    assert ended.err.count("\n") == 1
    assert "ann" in ended.err and "bob" in ended.err
    as_json = run("solve", opposed_file, "--json")
    assert as_json.json["exit_code"] == 3
    assert as_json.json["solution"]["certificate"] == [0.5, 0.5]


def test_on_failure_return_and_face(run, tmp_path):
    file = write_json(tmp_path / "three.json", {"vectors": [[1, 0], [-1, 0], [0, 1]]})
    returned = run("solve", file, "--on-failure", "return", "--json")
    assert returned.code == 3
    assert returned.json["status"] == "NO_AGREEMENT" and returned.json["alpha"] == [None] * 3
    face = run("solve", file, "--on-failure", "face", "--json")
    assert face.json["details"]["blocked"] == [0, 1]


def test_csv_headers_name_the_players(run, tmp_path):
    cases = {
        "ann,bob\n2,0.5\n0.5,1\n": ([], ["ann", "bob"]),
        ",ann,bob\nann,2,0.5\nbob,0.5,1\n": ([], ["ann", "bob"]),
        "0,1\n2,0.5\n0.5,1\n": ([], ["0", "1"]),
        "2,0.5\n0.5,1\n": ([], None),
        "who,x,y\nann,1,0\nbob,0,1\n": (["--vectors"], ["ann", "bob"]),
        "x,y\n1,0\n0,1\n": (["--vectors"], None),
        "\ufeffann,1,0\nbob,0,1\n": (["--vectors"], ["ann", "bob"]),
    }
    for text, (flags, names) in cases.items():
        file = tmp_path / "p.csv"
        file.write_text(text, encoding="utf-8")
        ended = run("solve", file, *flags, "--json")
        assert ended.code == 0, text
        assert ended.json["names"] == names, text


def test_npz_takes_every_key(run, tmp_path):
    file = tmp_path / "p.npz"
    rows = np.array(VECTORS)
    more = {"weights": np.array([1.0, 2.0]), "disagreement": np.array([0.1, 0.1]), "radius": np.array(1.5)}
    np.savez(file, vectors=rows, metric=np.array([1.0, 2.0, 3.0]), names=np.array(["ann", "bob"]), **more)
    ended = run("solve", file, "--json")
    problem = ns.BargainingProblem(vectors=rows, metric=np.array([1.0, 2.0, 3.0]), **more)
    assert ended.json["alpha"] == ns.solve(problem).alpha.tolist()
    assert ended.json["names"] == ["ann", "bob"]


def test_help_documents_the_exit_codes(run):
    for command in ("solve", "verify", "crosscheck", "doctor", "demo"):
        ended = run(command, "--help")
        assert ended.code == 0
        assert "Exit codes" in ended.out and "no certified answer" in ended.out
