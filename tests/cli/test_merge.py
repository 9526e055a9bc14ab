"""`nashsolve merge` as people type it: words, JSON, exit codes, and no traceback."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nashsolve.cli.app import app
from nashsolve.integrations.checkpoints.starting import init
from tests.checkpoints.build import moe_config, moe_tensors, small_moe, write_folder

pytest.importorskip("yaml")


def nashsolve(*words: object) -> Any:
    return CliRunner().invoke(app, ["merge", *map(str, words)])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    done = nashsolve("init", small_moe(tmp_path / "m", shards=2), "-o", file)
    assert done.exit_code == 0 and "wrote" in done.stdout
    return file


def test_first_five_minutes(recipe: Path, tmp_path: Path) -> None:
    assert "6 experts and a shared expert" in nashsolve("inspect", tmp_path / "m").stdout
    said = nashsolve("plan", recipe).stdout
    assert "6 -> 3" in said and "peak memory" in said and "6 rows become 3" in said
    done = nashsolve("run", recipe, "-o", tmp_path / "out", "--max-memory", "1GiB")
    assert done.exit_code == 0 and "is complete: 2 files" in done.stdout
    assert "complete already" in nashsolve("run", recipe, "-o", tmp_path / "out", "-q").stdout
    done = nashsolve("verify", tmp_path / "out", "--recipe", recipe, "--no-load")
    assert done.exit_code == 0 and "PROBLEM" not in done.stdout
    assert nashsolve("report", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out.html").read_text()
    assert page.startswith("<!doctype html>") and "http" not in page.replace("http-equiv", "")
    assert "6 experts to 3" in page and "model.layers.1.mlp" in page and "data:image/png" in page


def test_json_everywhere(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in (
        ("init", tmp_path / "m"),
        ("inspect", tmp_path / "m"),
        ("plan", recipe),
        ("run", recipe, "-o", out, "-q"),
        ("verify", out, "--no-load"),
        ("report", out),
    ):
        done = nashsolve(*words, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["exit_code"] == 0
    assert json.loads(nashsolve("schema").stdout)["$defs"]["ExpertsRecipe"]["additionalProperties"] is False


def test_failures_in_json(recipe: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(recipe.read_text().replace("merge_method", "merge_methd"))
    no_such_device = (1, "cannot be used") if find_spec("torch") else (2, "torch is needed for this")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("plan", bad), 1, "Did you mean 'merge_method'"),
        (("plan", tmp_path / "absent.yaml"), 4, "No such file"),
        (("inspect", tmp_path / "absent"), 1, "not a folder"),
        (("run", recipe, "-o", tmp_path / "m"), 1, "lie in each other"),
        (("run", recipe, "-o", tmp_path / "out", "--max-memory", "1MiB"), 4, "--max-memory"),
        (("run", recipe, "-o", tmp_path / "out", "--max-memory", "much"), 1, "not a size"),
        (("run", recipe, "-o", tmp_path / "out", "--on-no-bargain", "averge"), 1, "Did you mean 'average'"),
        (("run", recipe, "-o", tmp_path / "out", "--device", "gpu!"), *no_such_device),
        (("verify", tmp_path / "m"), 1, "has no nashsolve.json"),
        (("report", tmp_path / "m"), 1, "not a finished output"),
        (("init", tmp_path / "m", "--num-experts-out", "0"), 1, "greater than or equal to 1"),
    ]
    for words, code, match in cases:
        done = nashsolve(*words, "--json")
        said = json.loads(done.stdout)
        assert done.exit_code == said["exit_code"] == code, (words, done.output)
        assert match in said["error"], said["error"]
        assert "Traceback" not in done.output
    assert nashsolve("run", recipe).exit_code == 2
    assert nashsolve("frobnicate").exit_code == 2


def test_an_unsupported_plan_is_no_success(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("router: mean ", "router: keep "))
    done = nashsolve("plan", recipe)
    assert done.exit_code == 1 and "UNSUPPORTED: router: keep" in done.stdout


def test_no_agreement_on_the_command_line(tmp_path: Path) -> None:
    tensors = moe_tensors(layers=1, experts=2, dtype="F32")
    for role in ("gate_proj", "up_proj", "down_proj"):
        name = "model.layers.0.mlp.experts.{}." + role + ".weight"
        tensors[name.format(1)] = ("F32", -tensors[name.format(0)][1])
    model = write_folder(tmp_path / "m", tensors, moe_config(2))
    file = tmp_path / "r.yaml"
    file.write_text(init(model))
    done = nashsolve("run", file, "-o", tmp_path / "out", "-q", "--json")
    assert done.exit_code == 3 and "NO_AGREEMENT" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "out" / "nashsolve.json").exists()
    done = nashsolve("run", file, "-o", tmp_path / "out2", "-q", "--json", "--on-no-bargain", "average")
    assert done.exit_code == 0 and json.loads(done.stdout)["statuses"] == {"NO_AGREEMENT": 1}


def test_first_recipes_run_as_they_are(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    for kept in (1, 2, 6):
        file = tmp_path / f"{kept}.yaml"
        file.write_text(init(model, num_experts_out=kept))
        done = nashsolve("run", file, "-o", tmp_path / str(kept), "-q")
        assert done.exit_code == 0, done.output
    dense = write_folder(tmp_path / "dense", {"a": moe_tensors()["lm_head.weight"]}, {"model_type": "llama"})
    assert "job: task_vectors" in init(dense)
    assert nashsolve("init", dense, "--num-experts-out", "2").exit_code == 1


def test_paranoid_hashes_the_input(recipe: Path, tmp_path: Path) -> None:
    for name, more in (("plain", []), ("paranoid", ["--paranoid"])):
        assert nashsolve("run", recipe, "-o", tmp_path / name, "-q", *more).exit_code == 0
    plain, paranoid = (json.loads((tmp_path / n / "nashsolve.json").read_text()) for n in ("plain", "paranoid"))
    assert "input_sha256" not in plain["plan"] and len(paranoid["plan"]["input_sha256"][0]) == 2


def test_report_escapes_what_it_shows(tmp_path: Path) -> None:
    model = small_moe(tmp_path / "<script>alert(1)</script>".replace("/", "_"))
    file = tmp_path / "r.yaml"
    file.write_text(
        json.dumps({"job": "experts", "model": str(model), "groups": {"num_experts_out": 3}, "router": "mean"})
    )
    assert nashsolve("run", file, "-o", tmp_path / "out", "-q").exit_code == 0
    assert nashsolve("report", tmp_path / "out", "--html", tmp_path / "p.html").exit_code == 0
    assert "<script" not in (tmp_path / "p.html").read_text()
