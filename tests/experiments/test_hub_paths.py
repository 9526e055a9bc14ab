"""Loaders through the package datasets, on repositories of the hub's layout that lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nashsolve.core.errors import InvalidProblem
from nashsolve.integrations.experiments.data import fixtures
from nashsolve.integrations.experiments.data.glue import GLUE, glue_examples
from nashsolve.integrations.experiments.data.questions import HUB, arc, chats, gsm8k, mmlu
from nashsolve.integrations.experiments.data.sources import Source, rows
from nashsolve.integrations.experiments.data.wikitext103 import FILES, Words

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of another test, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def repository(folder: Path, parts: dict[str, dict[str, list[dict[str, Any]]]], classes: dict[str, list[str]]) -> Path:
    """Parquet files by subset and part, and the card that names them; `classes` are columns with named labels."""
    card = ["---", "configs:"]
    for subset, found in parts.items():
        card += [f"- config_name: {subset}", "  data_files:"]
        for part, some in found.items():
            made = datasets.Dataset.from_list(some)
            for column, names in classes.items():
                made = made.cast_column(column, datasets.ClassLabel(names=names))
            (folder / subset).mkdir(parents=True, exist_ok=True)
            made.to_parquet(folder / subset / f"{part}.parquet")
            card += [f"  - split: {part}", f"    path: {subset}/{part}.parquet"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def on_disk(file: Path) -> list[dict[str, Any]]:
    return rows(Source(folder=str(file.parent)), file.stem)


@pytest.mark.parametrize("task", list(GLUE))
def test_glue(task: str, tmp_path: Path) -> None:
    found = GLUE[task]
    files = fixtures.write_glue(tmp_path / "files") / found.subset
    parts = {part: on_disk(files / f"{part}.jsonl") for part in ("train", found.validation)}
    names = [f"class {k}" for k in range(found.n_classes)]
    hub = repository(tmp_path / "glue", {found.subset: parts}, {} if found.n_classes == 1 else {"label": names})
    for part in ("train", "validation"):
        there = glue_examples(Source(hub=str(hub)), task, part)
        assert there == glue_examples(Source(folder=str(files)), task, part) and len(there[1]) == 6


def test_wikitext(tmp_path: Path) -> None:
    files = fixtures.write_wikitext(tmp_path / "files")
    lines = {part: (files / name).read_text().splitlines(keepends=True) for part, name in FILES.items()}
    parts = {part: [{"text": line} for line in found] for part, found in lines.items()}
    hub = repository(tmp_path / "wikitext", {"wikitext-103-v1": parts}, {})
    there = Words(Source(hub=str(hub), subset="wikitext-103-v1"))
    here = Words(Source(folder=str(files)))
    assert there.index == here.index and all((there.ids(p) == here.ids(p)).all() for p in FILES)


def test_questions_and_chats(tmp_path: Path) -> None:
    files = fixtures.write_questions(tmp_path / "files")
    readers = {"MMLU": mmlu, "ARC": arc, "GSM8K": gsm8k, "SmolTalk": chats}
    for name, read in readers.items():
        part = "train" if name == "SmolTalk" else "test"
        given = {str(HUB[name].subset): {part: on_disk(files / name / f"{part}.jsonl")}}
        hub = repository(tmp_path / name, given, {"answer": list("ABCD")} if name == "MMLU" else {})
        there = read(HUB[name].changed(hub=str(hub), limit=3))  # type: ignore[operator]
        assert there == read(Source(folder=str(files / name), limit=3)) and len(there) == 3  # type: ignore[operator]


def test_parquet_in_a_folder(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "a", "label": 1}]).to_parquet(tmp_path / "train.parquet")
    assert rows(Source(folder=str(tmp_path)), "train") == [{"text": "a", "label": 1}]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    hub = repository(tmp_path / "glue", {"sst2": {"train": [{"sentence": "a", "label": 0}]}}, {})
    for source, part in ((Source(hub=str(hub), subset="rte"), "train"), (Source(hub=str(hub), subset="sst2"), "test")):
        with pytest.raises(InvalidProblem, match=r"could not be downloaded .*set data\.folder to a folder"):
            rows(source, part)
    with pytest.raises(InvalidProblem, match=r"nobody/nothing could not be downloaded .*set data\.folder"):
        rows(Source(hub="nobody/nothing"), "train")
