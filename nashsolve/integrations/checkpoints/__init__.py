"""Merge checkpoints from safetensors to safetensors: plan, run, verify, report; in bounded memory, surviving kills.

``inspect``, ``plan``, ``run``, ``verify``, ``report``, ``init`` and ``schema`` are what ``nashsolve merge`` runs.
"""
