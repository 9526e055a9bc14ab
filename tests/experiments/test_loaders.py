"""Loaders against tiny files in the published formats, and what they say where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nashsolve.core.errors import InvalidProblem, MissingExtra
from nashsolve.integrations.experiments.data import fixtures, sources
from nashsolve.integrations.experiments.data.digits import aupr, load_digits, noisy, occluded, shifted
from nashsolve.integrations.experiments.data.glue import GLUE, glue_examples, glue_score
from nashsolve.integrations.experiments.data.library_tasks import load_task
from nashsolve.integrations.experiments.data.library_text import PARTS, draw, library_bytes, library_files, spread
from nashsolve.integrations.experiments.data.questions import arc, chats, gsm8k, last_number, mmlu, source_of
from nashsolve.integrations.experiments.data.sources import Source, rows
from nashsolve.integrations.experiments.data.wikitext103 import END, Words, blocks


def test_wikitext_words(tmp_path: Path) -> None:
    words = Words(Source(folder=str(fixtures.write_wikitext(tmp_path))))
    ids = words.ids("validation")
    assert END in words.index and len(words) < 40
    assert sorted(words.index.values()) == list(range(len(words)))
    named = {k: w for w, k in words.index.items()}
    assert [named[int(i)] for i in ids[:4]] == ["=", "Rules", "=", END]
    (tmp_path / "wiki.test.tokens").write_text(" unheard words \n")
    assert words.ids("test").tolist() == [words.index["<unk>"], words.index["<unk>"], words.index[END]]


def test_blocks_go_on_where_they_ended() -> None:
    found = list(blocks(torch.arange(25), 2, 4))
    firsts = [[0, 12], [4, 16], [8, 20]]
    assert [x[:, 0].tolist() for x, _ in found] == firsts and found[0][0][0].tolist() == [0, 1, 2, 3]
    assert all(torch.equal(y, x + 1) for x, y in found)
    with pytest.raises(InvalidProblem, match="streams"):
        list(blocks(torch.arange(5), 2, 4))


@pytest.mark.parametrize("task", list(GLUE))
def test_glue(task: str, tmp_path: Path) -> None:
    folder = fixtures.write_glue(tmp_path) / GLUE[task].subset
    texts, labels = glue_examples(Source(folder=str(folder)), task, "validation")
    assert len(texts) == len(labels) == 6 and texts[0].startswith(f"{GLUE[task].subset} {GLUE[task].columns[0]}: ")
    assert set(labels) == ({k / 2 for k in range(6)} if task == "STSB" else set(range(GLUE[task].n_classes)))


def test_glue_as_tab_separated(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('sentence\tlabel\nan unclosed " mark\t1\nfine\t0\n')
    texts, labels = glue_examples(Source(folder=str(tmp_path)), "SST-2", "train")
    assert texts == ['sst2 sentence: an unclosed " mark', "sst2 sentence: fine"] and labels == [1.0, 0.0]


def test_glue_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    wanted, given = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    assert glue_score("f1", given, wanted) == pytest.approx(100 * metrics.f1_score(wanted, given))
    assert glue_score("matthews", given, wanted) == pytest.approx(100 * metrics.matthews_corrcoef(wanted, given))
    assert glue_score("accuracy", given, wanted) == pytest.approx(100 * metrics.accuracy_score(wanted, given))


def test_imagenet_folders(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from nashsolve.integrations.experiments.data.imagenet import ImageFolders

    root = fixtures.write_imagenet(tmp_path)
    images = ImageFolders(root, "validation", 32)
    assert len(images) == 4 and images[0][0].shape == (3, 32, 32) and [images[k][1] for k in range(4)] == [0, 0, 1, 1]
    assert torch.equal(images[0][0], images[0][0])
    assert {label for _, label in ImageFolders(root, "O", 32).files} == {-1}
    with pytest.raises(InvalidProblem, match="does not exist; ImageNet cannot be downloaded"):
        ImageFolders(tmp_path / "nowhere", "train", 32)


def test_questions(tmp_path: Path) -> None:
    fixtures.write_questions(tmp_path)

    def source(name: str) -> Source:
        return source_of(name, str(tmp_path / name), limit=2)

    assert [c.answer for c in mmlu(source("MMLU"))] == [1, 1] == [c.answer for c in arc(source("ARC"))]
    assert mmlu(source("MMLU"))[0].prompt().endswith("D. four\nAnswer:")
    assert gsm8k(source("GSM8K"))[0].answer == "1200"
    assert chats(source("SmolTalk"))[0][1]["role"] == "assistant"
    assert last_number("so 1,000 + 200 = 1,200.") == "1200" and last_number("none") is None


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("train.jsonl", "", "no rows"),
        ("train.jsonl", '{"text": "x"}\n', "has no column 'sentence'; it has text"),
        ("other.jsonl", "{}\n", "has no train.jsonl"),
    ],
)
def test_what_is_missing_is_said(file: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(InvalidProblem, match=sentence):
        glue_examples(Source(folder=str(tmp_path)), "SST-2", "train")


def test_a_missing_download_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(InvalidProblem, match=r"could not be downloaded .*no route.*set data\.folder"):
        rows(Source(hub="nyu-mll/glue", subset="sst2"), "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        rows(Source(hub="nyu-mll/glue"), "train")


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    asked = []

    def load(*given: object, **named: object) -> list[dict[str, int]]:
        asked.append((given, named))
        return [{"label": k} for k in range(5)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    assert rows(Source(hub="a/b", subset="c", limit=2), "train") == [{"label": 0}, {"label": 1}]
    assert asked == [(("a/b", "c"), {"split": "train"})]


def test_json_and_csv(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"a": 1}]))
    (tmp_path / "test.csv").write_text('a,b\n"x, y",2\n')
    assert rows(Source(folder=str(tmp_path)), "train") == [{"a": 1}]
    assert rows(Source(folder=str(tmp_path)), "test") == [{"a": "x, y", "b": "2"}]
    assert sources.SUFFIXES[0] == ".jsonl"


def test_library_parts_share_no_file() -> None:
    names = [{name for name, _ in library_files(part)} for part in PARTS]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    assert len(library_bytes("train")) > 5 * len(library_bytes("test")) > 0
    x, y = draw(library_bytes("test"), 3, 5, torch.Generator().manual_seed(0))
    assert torch.equal(x[:, 1:], y[:, :-1]) and x.shape == (3, 5)
    assert spread(library_bytes("test"), 4, 6).shape == (4, 7)


def test_library_tasks_are_balanced() -> None:
    task = load_task("package", 32, 60, 40)
    assert task.n_classes == 10 and task.train[0].shape == (60, 32)
    assert torch.bincount(task.train[1]).tolist() == [6] * 10
    with pytest.raises(InvalidProblem, match="known are package"):
        load_task("sentiment", 32, 60, 40)


def test_renamed_pairs_share_a_layout() -> None:
    task = load_task("renamed", 64, 400, 100)
    assert task.train[0].shape == (400, 2, 64) and torch.bincount(task.train[1]).tolist() == [200, 200]
    letters = torch.tensor([chr(k).isalnum() or k == ord("_") for k in range(256)])
    for pairs, labels in (task.train, task.test):
        # Punctuation and spaces lie at the same places where a function is renamed, and names differ.
        alike = (letters[pairs[:, 0]] == letters[pairs[:, 1]]).all(dim=1)
        assert alike[labels == 1].all() and alike[labels == 0].float().mean() < 0.05
        assert not (pairs[:, 0] == pairs[:, 1]).all(dim=1).any()


def test_digits_sets() -> None:
    found = load_digits(held_out=[8, 9])
    images, labels = found.test
    assert found.n_classes == 8 and set(labels.tolist()) == set(range(8)) and len(found.unknown) == 354
    assert len(found.train[1]) + len(labels) + len(found.unknown) == 1797
    moved = shifted(images)
    assert torch.equal(moved[0, 1:], images[0, :-1]) and not moved[0, 0].any()
    assert torch.equal(noisy(images), noisy(images)) and not torch.equal(noisy(images), images)
    assert (occluded(torch.ones(5, 8, 8)) == 0).sum(dim=(1, 2)).tolist() == [9] * 5


def test_aupr() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    unknown, known = torch.rand(20, generator=generator) + 0.2, torch.rand(50, generator=generator)
    wanted = [1] * 20 + [0] * 50
    assert aupr(unknown, known) == pytest.approx(
        metrics.average_precision_score(wanted, torch.cat([unknown, known]).numpy())
    )
    assert aupr(torch.ones(3), torch.zeros(5)) == 1.0
