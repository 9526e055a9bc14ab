"""A callback for the Trainer of transformers: chains after every step, telemetry, checkpoints that come back whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import TrainerCallback

from nashsolve.core.errors import NashSolveError

from ..torch_moe.telemetry import Telemetry
from .loading import load_merging
from .merging import NAME, Merging, merging_of

TELEMETRY = "nashsolve_telemetry.jsonl"


class MergingCallback(TrainerCallback):
    """Looks after the merging of a converted or upcycled model while a Trainer trains it.

    After every optimizer step the chains are computed anew, once for all micro-batches of the next step. Whenever the
    Trainer logs a loss, chains and routers are recorded. Checkpoints are written in the layout of the running model,
    which is the only one that a Trainer reads back in full: it loads checkpoints by the names of the model's own
    parameters, and would leave fused experts as they are where a file holds them one by one. When a run is resumed,
    and when the best model is loaded, merging is read from the same folder as the model.

    Parameters
    ----------
    resume_from : folder that ``trainer.train(resume_from_checkpoint=...)`` gets, where it is not the folder
        ``checkpoint-<step>`` of the output folder
    record : keep telemetry, and write it to `nashsolve_telemetry.jsonl` in the output folder

    Attributes
    ----------
    telemetry : Telemetry, one record for every logged step
    """

    def __init__(self, resume_from: str | Path | None = None, record: bool = True) -> None:
        self.resume_from, self.record = resume_from, record
        self.telemetry = Telemetry()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before the first step; after the Trainer has loaded a checkpoint."""
        merging = merging_of(model)
        merging.save_fused = True
        if state.global_step:
            folder = Path(self.resume_from or Path(args.output_dir) / f"checkpoint-{state.global_step}")
            restore(model, folder, state.global_step)
            self._recall(args, state)
        merging.refresh()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """After an optimizer step, of whatever optimizer: some write parameters without a trace."""
        merging = merging_of(model)
        merging.after_step()
        merging.invalidate()
        merging.refresh()

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **_: Any) -> None:
        """When the Trainer logs a loss."""
        loss = (logs or {}).get("loss")
        if self.record and loss is not None:
            merging = merging_of(model)
            numbers = {"loss": float(loss)} if math.isfinite(float(loss)) else {}
            self.telemetry.log(state.global_step, merging.chains, merging, **numbers)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """When a checkpoint was written."""
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """After the last step, and after the Trainer has loaded the best model."""
        merging = merging_of(model)
        merging.save_fused, merging.starts = merging.upcycled, {}
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            restore(model, Path(state.best_model_checkpoint))
        self._write(args, state)

    def _write(self, args: Any, state: Any) -> None:
        if self.record and self.telemetry.records and state.is_world_process_zero:
            self.telemetry.save(Path(args.output_dir) / TELEMETRY)

    def _recall(self, args: Any, state: Any) -> None:
        """The records of the run that is resumed, up to its checkpoint."""
        path = Path(args.output_dir) / TELEMETRY
        if self.record and path.is_file():
            records = Telemetry.load(path).records
            self.telemetry = Telemetry([record for record in records if record["step"] <= state.global_step])


def restore(model: Any, folder: Path, step: int | None = None) -> Merging:
    """Read merging from a checkpoint whose weights a Trainer has just loaded, and see that it loaded them all.

    Raises
    ------
    NashSolveError, InvalidProblem
    """
    state = folder / "trainer_state.json"
    found = json.loads(state.read_text(encoding="utf-8"))["global_step"] if state.is_file() else None
    if step is not None and found != step:
        raise NashSolveError(
            f"the run was resumed at step {step}, but {folder} is a checkpoint of step {found}: name the folder, "
            "MergingCallback(resume_from=...)"
        )
    names = _names(folder)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = [key for key in model.state_dict() if not key.startswith(f"{NAME}.") and key not in names | tied]
    if missing:
        raise NashSolveError(
            f"{folder} holds no {missing[0]!r}: it was saved in another layout, which the Trainer does not load into "
            "this model; save with MergingCallback, or load the folder with from_pretrained and start from there"
        )
    return load_merging(model, folder)


def _names(folder: Path) -> set[str]:
    """Names of the tensors in a folder."""
    names: set[str] = set()
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names
