"""Fine-tune a mixture of experts that merges, with accelerate: gradient accumulation, mixed precision, resuming.

    python examples/accelerate_merging.py
    python examples/accelerate_merging.py --steps 40 --out run && python examples/accelerate_merging.py --resume run
    torchrun --nproc_per_node 2 examples/accelerate_merging.py --cpu

A small randomly initialised Mixtral learns the bytes of this file, so that nothing is downloaded. In your own script
take `AutoModelForCausalLM.from_pretrained` instead; everything after `convert` stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import MixtralConfig, MixtralForCausalLM

from nashsolve.integrations.torch_moe.telemetry import Telemetry
from nashsolve.integrations.transformers import convert, merging_of

LENGTH = 64


def build(show: bool) -> MixtralForCausalLM:
    """A model whose experts bargain over their base expert in every layer."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=LENGTH,
    )
    model = MixtralForCausalLM(config)
    merge = {"rule": "camex", "eta": 0.5}
    convert(model, merge=merge, causal_level="segment", segment_length=16, chain={}, show=show)
    return model


def batches() -> DataLoader:
    """Windows of this file, as bytes."""
    text = torch.tensor(list(Path(__file__).read_bytes()))
    windows = text[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return DataLoader(windows, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))


def train(options: argparse.Namespace) -> None:
    """Train, save, print."""
    accelerator = Accelerator(
        gradient_accumulation_steps=2, cpu=options.cpu, mixed_precision="bf16" if options.bf16 else "no"
    )
    model, loader = build(accelerator.is_main_process), batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    # accelerate saves the whole state_dict, in which merging has its own part.
    if options.resume:
        accelerator.load_state(str(options.resume))
    merging, telemetry, step, loss = merging_of(model), Telemetry(), 0, torch.zeros(())
    model.train()
    while step < options.steps:
        for window in loader:
            with accelerator.accumulate(model):
                loss = model(input_ids=window, labels=window, use_cache=False).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                merging.after_step()
                merging.refresh()  # once for all micro-batches of the next step
                telemetry.log(step, merging.chains, merging, loss=loss.item())
                if accelerator.is_main_process and step % 10 == 0:
                    solved = sum(record["policy"] == "" for record in merging.report())
                    print(f"step {step}: loss {loss.item():.3f}, {solved} of {len(merging.report())} layers agreed")
            if step == options.steps:
                break
    if options.out:
        accelerator.save_state(str(options.out))
        if accelerator.is_main_process:
            telemetry.save(Path(options.out) / "telemetry.jsonl")
            accelerator.unwrap_model(model).save_pretrained(Path(options.out) / "model")
            print(f"saved to {options.out}; read the model with from_pretrained({str(options.out / 'model')!r})")
    accelerator.end_training()


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, help="folder for the state, the model and the telemetry")
    parser.add_argument("--resume", type=Path, help="folder of an earlier --out")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--cpu", action="store_true", help="leave accelerators alone")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
