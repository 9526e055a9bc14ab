"""Training with the Trainer of transformers: killed and resumed, accumulated, in low precision, checkpointed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("accelerate")

from nashsolve.core.errors import NashSolveError  # noqa: E402
from nashsolve.integrations.torch_moe.telemetry import Telemetry  # noqa: E402
from nashsolve.integrations.transformers import MergingCallback, convert, from_pretrained, upcycle  # noqa: E402
from tests.own_memory import in_own_memory  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402
from tests.transformers.build import build, padded  # noqa: E402

STEPS = 6
WARM = {"bargain": {"iterations": 1, "warm_start": True}}
"""One step of the solver from the answer before: what it finds depends on where it starts."""


class Stop(transformers.TrainerCallback):
    """Ends the process, or the run, in the middle of a step."""

    def __init__(self, step: int, kill: bool = False) -> None:
        self.step, self.kill = step, kill

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def data(n: int = 24) -> list[dict[str, Any]]:
    """Padded sequences of different lengths, with their masks."""
    ids = torch.randint(2, 40, (n, 10), generator=torch.Generator().manual_seed(4))
    rows, masks = padded(ids, [10 - i % 5 for i in range(n)], "right")
    labels = torch.where(masks.bool(), rows, -100)
    return [
        dict(zip(("input_ids", "attention_mask", "labels"), row, strict=True))
        for row in zip(rows, masks, labels, strict=True)
    ]


def model_of(kind: str) -> Any:
    if kind == "upcycled":
        model = build("gpt2")
        upcycle(model, show=False, experts=3, causal_level="segment", segment_length=4)
    else:
        model = build("mixtral")
        convert(
            model, show=False, merge={"rule": "camex", "eta": 0.5}, learn_eta=True, causal_level="segment",
            segment_length=4, chain=WARM if kind == "warm" else {},
        )  # fmt: skip
    return model


class Run:
    """One run of a Trainer: its losses, and what it left."""

    def __init__(self, kind: str, folder: Path, *extra: Any, record: Any = None, **options: Any) -> None:
        self.model = model_of(kind)
        self.losses: list[float] = []
        self.model.register_forward_hook(self._note)
        self.callback = record or MergingCallback()
        settings = {
            "output_dir": str(folder),
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 11,
        }
        arguments = transformers.TrainingArguments(**(settings | options))
        self.trainer = transformers.Trainer(
            model=self.model,
            args=arguments,
            train_dataset=data(),
            eval_dataset=data(6),
            callbacks=[self.callback, *extra],
        )

    def _note(self, module: Any, args: Any, output: Any) -> None:
        if module.training:
            self.losses.append(output.loss.item())

    def parameters(self) -> dict[str, Any]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "bfloat16": {"bf16": True},
    "checkpointed": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "how"), [*(("mixtral", how) for how in OPTIONS), ("upcycled", "plain"), ("warm", "plain")]
)
def test_a_run_stopped_and_resumed_has_the_same_losses_bit_for_bit(kind: str, how: str, tmp_path: Path) -> None:
    whole = Run(kind, tmp_path / "whole", **OPTIONS[how])
    whole.trainer.train()
    stopped = Run(kind, tmp_path / "cut", Stop(5), **OPTIONS[how])
    with pytest.raises(KeyboardInterrupt):
        stopped.trainer.train()
    resumed = Run(kind, tmp_path / "cut", **OPTIONS[how])
    resumed.trainer.train(resume_from_checkpoint=True)
    each = len(whole.losses) // STEPS
    assert stopped.losses == whole.losses[: len(stopped.losses)]
    assert resumed.losses == whole.losses[4 * each :]
    wanted = whole.parameters()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.parameters().items())
    assert resumed.callback.telemetry.steps == whole.callback.telemetry.steps == list(range(1, STEPS + 1))


def test_a_killed_process_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.transformers.test_trainer import Run, Stop
Run("mixtral", Path({str(tmp_path / "cut")!r}), Stop(3, kill=True)).trainer.train()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = Run("mixtral", tmp_path / "whole")
    whole.trainer.train()
    resumed = Run("mixtral", tmp_path / "cut")
    resumed.trainer.train(resume_from_checkpoint=True)
    assert resumed.losses == whole.losses[2:]
    wanted = whole.parameters()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.parameters().items())


def test_accumulation_computes_the_chain_once_a_step_and_gives_the_gradient_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nashsolve.integrations.torch_moe import chain as chains

    solves: list[int] = []
    true = chains.bargain_over_base

    def counted(*args: Any) -> Any:
        solves.append(1)
        return true(*args)

    monkeypatch.setattr(chains, "bargain_over_base", counted)
    settings = {"max_steps": 3, "optim": "sgd", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
    parts = Run("mixtral", tmp_path / "a", gradient_accumulation_steps=4, **settings)
    parts.trainer.train()
    # two links of the chain, at the beginning and after each of three steps
    assert len(solves) == 2 * 4
    whole = Run("mixtral", tmp_path / "b", per_device_train_batch_size=8, **settings)
    whole.trainer.train()
    wanted = whole.parameters()
    for name, value in parts.parameters().items():
        torch.testing.assert_close(
            value, wanted[name], rtol=10 * tolerance("float32", "rtol"), atol=10 * tolerance("float32", "sum")
        )


@pytest.mark.parametrize("kind", ["mixtral", "upcycled"])
def test_the_best_model_is_loaded_with_its_merging(kind: str, tmp_path: Path) -> None:
    options = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "greater_is_better": True}
    run = Run(kind, tmp_path, metric_for_best_model="loss", **options)  # the worst loss: an early checkpoint
    run.trainer.train()
    best = Path(run.trainer.state.best_model_checkpoint)
    assert best.name != f"checkpoint-{STEPS}"
    fresh = in_own_memory(from_pretrained(best))
    batch = {key: torch.stack([row[key] for row in data(4)]) for key in ("input_ids", "attention_mask")}
    run.model.eval()
    assert torch.equal(run.model(**batch).logits, fresh(**batch).logits)
    wanted = fresh.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in run.model.state_dict().items())


def test_checkpoints_are_fused_while_training_and_per_expert_afterwards(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    run = Run("mixtral", tmp_path)
    run.trainer.train()

    def names(folder: Path) -> set[str]:
        with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
            return set(file.keys())

    assert any("experts.gate_up_proj" in name for name in names(tmp_path / "checkpoint-2"))
    run.model.save_pretrained(tmp_path / "end")
    assert any("experts.0." in name for name in names(tmp_path / "end"))


def test_telemetry_is_written_and_holds_every_logged_step(tmp_path: Path) -> None:
    run = Run("mixtral", tmp_path)
    run.trainer.train()
    found = Telemetry.load(tmp_path / "nashsolve_telemetry.jsonl")
    assert found.steps == list(range(1, STEPS + 1))
    assert found.links("alpha").shape == (STEPS, 2, 4)
    assert found.numbers("loss").shape == (STEPS,)
    assert len(found.records[0]["routing"]) == 3
    quiet = Run("mixtral", tmp_path / "quiet", record=MergingCallback(record=False))
    quiet.trainer.train()
    assert not (tmp_path / "quiet" / "nashsolve_telemetry.jsonl").exists()


def test_a_checkpoint_that_the_trainer_cannot_load_is_refused(tmp_path: Path) -> None:
    run = Run("mixtral", tmp_path)
    run.trainer.train()
    run.model.save_pretrained(tmp_path / "checkpoint-4")  # one by one, as without the callback
    again = Run("mixtral", tmp_path)
    with pytest.raises(NashSolveError, match="saved in another layout"):
        again.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_another_folder_to_resume_from_must_be_named(tmp_path: Path) -> None:
    run = Run("mixtral", tmp_path / "a")
    run.trainer.train()
    (tmp_path / "a" / "checkpoint-4").rename(tmp_path / "moved")
    with pytest.raises(NashSolveError, match="name the folder"):
        Run("mixtral", tmp_path / "b").trainer.train(resume_from_checkpoint=str(tmp_path / "moved"))
    resumed = Run("mixtral", tmp_path / "b", record=MergingCallback(resume_from=tmp_path / "moved"))
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "moved"))
    assert resumed.losses == run.losses[4:]
