"""Malformed input: one sentence on stderr, a documented exit code, never a traceback."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from .conftest import GRAM, write_json

NAN = float("nan")

BAD_JSON = {
    "nan": ({"gram": [[1.0, NAN], [0.0, 1.0]]}, "gram[0, 1] is nan"),
    "infinite": ({"vectors": [[1.0, float("inf")]]}, "vectors[0, 1] is inf"),
    "asymmetric": ({"gram": [[1.0, 0.5], [0.1, 1.0]]}, "not symmetric"),
    "indefinite": ({"gram": [[1.0, 2.0], [2.0, 1.0]]}, "not positive semidefinite"),
    "negative_diagonal": ({"gram": [[-1.0, 0.0], [0.0, 1.0]]}, "diagonal"),
    "negative_weight": ({"gram": GRAM, "weights": [1, -1]}, "weights[1] is -1"),
    "zero_weight": ({"gram": GRAM, "weights": [1, 0]}, "weights[1] is 0"),
    "nan_weight": ({"gram": GRAM, "weights": [1, NAN]}, "weights[1] is nan"),
    "not_square": ({"gram": [[1.0, 0.0]]}, "shape (1, 2)"),
    "weights_length": ({"gram": GRAM, "weights": [1]}, "weights has shape (1,)"),
    "names_length": ({"gram": GRAM, "names": ["a"]}, "names has 1"),
    "same_name": ({"gram": GRAM, "names": ["a", "a"]}, "twice"),
    "three_axes": ({"gram": [GRAM]}, "gram[0, 0]"),
    "ragged": ({"gram": [[1.0, 0.0], [1.0]]}, "gram[1] has 1 entries"),
    "text": ({"gram": [[1.0, "x"], [0, 1]]}, "gram[0, 1] is 'x'"),
    "digits_in_quotes": ({"gram": [[1.0, "0"], [0, 1]]}, "gram[0, 1] is '0'"),
    "boolean": ({"gram": [[1.0, False], [0, 1]]}, "gram[0, 1] is False"),
    "null": ({"gram": [[1.0, None], [0, 1]]}, "gram[0, 1] is None"),
    "huge_integer": ({"gram": [[10**400, 0], [0, 1]]}, "gram[0, 0]"),
    "unknown_key": ({"gram": GRAM, "wieghts": [1, 1]}, "Did you mean 'weights'?"),
    "both": ({"gram": GRAM, "vectors": GRAM}, "exactly one"),
    "neither": ({"weights": [1, 1]}, "exactly one"),
    "no_radius": ({"gram": GRAM, "disagreement": [0.1, 0.1]}, "radius"),
    "bad_radius": ({"gram": GRAM, "radius": -1}, "radius is -1"),
    "gram_error": ({"gram": GRAM, "gram_error": 2}, "gram_error is 2"),
    "metric_with_gram": ({"gram": GRAM, "metric": [1, 1]}, "metric needs vectors"),
    "number": (3, "neither an object nor a matrix"),
    "empty_list": ([], "gram has shape (0,)"),
}


def check(ended, code, words):
    """One sentence, with `words` in it."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert ended.err.startswith("nashsolve: ") and ended.err.count("\n") == 1, ended.err
    assert words in ended.err, ended.err


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(run, tmp_path, case):
    value, words = BAD_JSON[case]
    file = write_json(tmp_path / "bad.json", value)
    check(run("solve", file), 1, words)
    for command in (["solve", file], ["verify", file, "1,1"], ["crosscheck", file]):
        ended = run(*command, "--json")
        assert ended.code == ended.json["exit_code"] == 1
        assert words in ended.json["error"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.json", b'{"gram": [', "is not JSON"),
        ("twice.json", b'{"gram": [[1]], "gram": [[2]]}', "'gram' twice"),
        ("deep.json", b"[" * 100_000, "is not JSON"),
        ("latin.json", b'{"names": ["\xe9"]}', "UTF-8"),
        ("long.json", b'{"gram": [[' + b"9" * 5000 + b"]]}", "number"),
        ("empty.json", b"", "is not JSON"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"a,b\n", "no rows"),
        ("text.csv", b"1,0\n0,x\n", "gram[1, 1]"),
        ("ragged.csv", b"1,0\n0\n", "row 1 has 1"),
        ("order.csv", b",a,b\nb,1,0\na,0,1\n", "in its order"),
        ("nan.csv", b"1,nan\n0,1\n", "gram[0, 1] is nan"),
        ("fake.npy", b"hello", "is not a .npy file"),
        ("fake.npz", b"hello", "is not a .npz file"),
        ("short.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("short.npz", b"PK\x03\x04 and no more", "cannot be read"),
        ("model.pt", b"PK", "never opened"),
        ("model.bin", b"", "never opened"),
        ("data.txt", b"1,0\n0,1\n", "never opened"),
        ("nosuffix", b"1,0\n0,1\n", "never opened"),
    ],
)
def test_bad_files(run, tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    check(run("solve", file), 1, words)


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("suffix", [".pkl", ".npy", ".npz"])
def test_pickles_are_never_run(run, tmp_path, suffix):
    trace, file = tmp_path / "trace", tmp_path / f"bomb{suffix}"
    bomb = np.array([[Bomb(trace)]], dtype=object)
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps(Bomb(trace)))
    elif suffix == ".npy":
        np.save(file, bomb, allow_pickle=True)
    else:
        np.savez(file, gram=bomb)
    check(run("solve", file), 1, "never")
    assert not trace.exists()


def test_npz_with_an_unknown_key(run, tmp_path):
    file = tmp_path / "p.npz"
    np.savez(file, gram=np.eye(2), radious=np.array(1.0))
    check(run("solve", file), 1, "Did you mean 'radius'?")


def test_arrays_of_the_wrong_kind(run, tmp_path):
    file = tmp_path / "p.npy"
    for value, words in (
        (np.eye(2, dtype=complex), "gram"),
        (np.zeros((2, 2, 2)), "shape (2, 2, 2)"),
        (np.array([["a"]]), "gram"),
        (np.array(1.0), "shape ()"),
    ):
        np.save(file, value)
        check(run("solve", file), 1, words)


def test_missing_files_and_folders_are_io_errors(run, tmp_path, gram_file):
    check(run("solve", tmp_path / "none.json"), 4, "No such file")
    (tmp_path / "folder.csv").mkdir()
    check(run("solve", tmp_path / "folder.csv"), 4, "folder.csv")
    check(run("solve", gram_file, "--weights", tmp_path / "none.npy"), 4, "No such file")
    assert run("solve", tmp_path / "none.json", "--json").json["exit_code"] == 4


def test_bad_options(run, gram_file):
    check(run("solve", gram_file, "--weights", "1,x"), 1, "weights[1] is 'x'")
    check(run("solve", gram_file, "--weights", "1"), 1, "weights has shape (1,)")
    check(run("solve", gram_file, "--weights", "1,nan"), 1, "weights[1] is 'nan'")
    check(run("solve", gram_file, "--radius", "nan"), 1, "radius is nan")
    check(run("solve", gram_file, "--max-iter", "-1"), 1, "max_iter is -1")
    check(run("solve", gram_file, "--rtol", "nan"), 1, "rtol is nan")
    check(run("solve", gram_file, "--vectors"), 1, "leave --vectors out")
    check(run("verify", gram_file, "1,-1"), 1, "negative")
    check(run("verify", gram_file, "1,2,3"), 1, "alpha has shape (3,)")
    check(run("verify", gram_file, "1,nan"), 1, "alpha[1] is 'nan'")


def test_the_installed_command_prints_no_traceback(tmp_path):
    file = write_json(tmp_path / "bad.json", {"gram": [[1.0, 2.0], [2.0, 1.0]]})
    command = [sys.executable, "-m", "nashsolve.cli", "solve", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["typer", "pydantic", "rich"])
def test_without_the_extra_the_pip_line_is_printed(package):
    code = f"import sys; sys.modules[{package!r}] = None\nfrom nashsolve.cli import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "pip install 'nashsolve[cli]'" in ended.stderr and "Traceback" not in ended.stderr
