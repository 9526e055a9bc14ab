"""The paths that read a checkpoint and data sets from disk, as the full recipes do, with the packages they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from nashsolve.core.errors import InvalidProblem, MissingExtra
from nashsolve.integrations.experiments.book import Book
from nashsolve.integrations.experiments.data.fixtures import write_questions
from nashsolve.integrations.experiments.data.questions import arc, mmlu, source_of
from nashsolve.integrations.experiments.recipe import find_recipe
from nashsolve.integrations.experiments.runner import one_thread
from nashsolve.integrations.experiments.studies import _harness, llm_surgery
from nashsolve.integrations.experiments.studies._transformers import model_tokens

from .checkpoints import qwen, tokenizer


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a checkpoint and of questions."""
    root = tmp_path_factory.mktemp("released")
    return {"model": str(qwen(root / "model")), "folder": str(write_questions(root / "questions"))}


def settings(places: dict[str, str], **changes: Any) -> llm_surgery.Settings:
    """Those of the recipe, with a checkpoint and data on disk."""
    found = find_recipe("full-table10").chosen("cpu")
    assert isinstance(found, llm_surgery.Settings)
    tuning = {"steps": 2, "lr": 0.001, "log_every": 1, "save_every": 1}
    small = {"length": 64, "segment": 16, "batch": 2, "answer": 4, "questions": 2, "dtype": "float32"}
    chosen = {"systems": ["original", "namex_full"], "tuning": tuning, **small, **places}
    return found.changed(**{**chosen, **changes})


def test_a_checkpoint_is_measured_and_tuned(places: dict[str, str], tmp_path: Path) -> None:
    book = Book(tmp_path)
    with one_thread("cpu"):
        llm_surgery.run(settings(places), book)
    original, merged = book.records()
    assert {"zero_MMLU", "zero_ARC", "zero_GSM8K"} <= set(original) and "tuned_MMLU" not in original
    assert {"tuned_MMLU", "final_loss"} <= set(merged)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_what_the_tokenizer_says(side: str, tmp_path: Path) -> None:
    found = model_tokens(str(tokenizer(tmp_path, side)), 8)(["!!", "four"])
    assert found.mask.tolist() == [[True] * 2 + [False] * 6, [True] * 4 + [False] * 4]
    assert found.row(0).tolist() == [0, 0] and found.row(1).tolist() != [0] * 4
    assert found.ids[0, 2:].tolist() == [257] * 6


def test_answers_do_not_depend_on_the_batch(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions of different lengths are padded when they are asked together."""
    asked = [
        llm_surgery.Choice(question, choices, k % 2)
        for k, question in enumerate(["Who?", "Who gains from an agreement?", "What is fair!", "!"])
        for choices in (["a", "b"], ["nobody", "both of them"])
    ]
    model = llm_surgery.build(settings(places), "original", None, 0).eval()
    tokens = model_tokens(places["model"], 64)
    chosen: list[list[float]] = []
    real = torch.Tensor.argmax

    def argmax(self: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        chosen[-1] += self.tolist() if self.dim() == 1 else []
        return real(self, *rest, **more)

    monkeypatch.setattr(torch.Tensor, "argmax", argmax)
    for batch in (1, 8):
        chosen.append([])
        llm_surgery._choices(settings(places, batch=batch), model, tokens, asked, "cpu")
    assert len(chosen[0]) == 16 and torch.allclose(*map(torch.tensor, chosen))


def test_lm_eval_reads_the_same_files(places: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    book = Book(tmp_path)
    with one_thread("cpu"):
        llm_surgery.run(settings(places, evaluator="lm_eval", systems=["original"]), book)
    (record,) = book.records()
    assert all(0 <= record[f"zero_{name}"] <= 100 for name in _harness.TASKS)
    with pytest.raises(InvalidProblem, match=r"MMLU.test\.jsonl does not exist; lm-evaluation-harness reads MMLU"):
        _harness.harness_scores(None, places["model"], str(tmp_path), None, 1)


def test_lm_eval_finds_a_model_that_knows_the_answers(places: dict[str, str]) -> None:
    """The answer of every question is B; a head that always says so is right, and one that says C is wrong."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    folder = Path(places["folder"])
    assert {c.answer for c in mmlu(source_of("MMLU", str(folder / "MMLU")))} == {1}
    assert {c.answer for c in arc(source_of("ARC", str(folder / "ARC")))} == {1}
    tokens = model_tokens(places["model"], 64)
    for letter, right in (("B", 100.0), ("C", 0.0)):
        model = llm_surgery.build(settings(places), "original", None, 0).eval()
        with torch.no_grad():
            model.lm_head.weight.zero_()
        _always(model, int(tokens([letter]).row(0)[0]))
        found = _harness.harness_scores(model, places["model"], places["folder"], 2, 2)
        assert found["MMLU"] == right and found["GSM8K"] == 0.0


def _always(model: Any, k: int) -> None:
    """Let the model be sure of one token whatever it reads."""

    def hook(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits + 50.0 * torch.nn.functional.one_hot(torch.tensor(k), logits.shape[-1])

    model.lm_head.register_forward_hook(hook)


def test_without_lm_eval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nashsolve\[lm-eval\]'"):
        _harness.harness_scores(None, "model", None, None, 1)
