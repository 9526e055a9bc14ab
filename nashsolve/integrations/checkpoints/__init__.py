"""Merge checkpoints from safetensors to safetensors: plan, run, verify, report; in bounded memory, surviving kills."""
