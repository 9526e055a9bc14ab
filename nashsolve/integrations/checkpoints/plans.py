"""A plan: what a run will do, and what must be equal for a run to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nashsolve import __version__

from . import memory
from .adapters import Adapter, MoeLayer
from .folder import Checkpoint
from .outputs import OutFile
from .recipe import Recipe, canonical

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a run will do; `unsupported` is empty when it can begin."""

    recipe: Recipe
    sources: tuple[Checkpoint, ...]
    files: tuple[OutFile, ...]
    config: dict[str, Any]
    layers: tuple[MoeLayer, ...] = ()
    adapter: Adapter | None = None
    experts_out: int = 0
    routing_groups: int = 1
    calibration: Checkpoint | None = None
    problems: int = 0
    problem_sizes: str = ""
    expert_bytes: tuple[int, int] = (0, 0)
    scratch_bytes: int = 0
    peak_bytes: int = 0
    max_memory: int = memory.DEFAULT
    statements: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = field(default=())

    @property
    def input_bytes(self) -> int:
        """Tensor bytes of all sources."""
        return sum(source.total_bytes for source in self.sources)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output's weight files."""
        return sum(file.nbytes for file in self.files)

    @property
    def shortage(self) -> str:
        """What the memory bound lacks, empty when it suffices."""
        if self.peak_bytes <= self.max_memory:
            return ""
        need, have = (f"{b / 2**20:.0f} MiB" for b in (self.peak_bytes, self.max_memory))
        return f"the run needs {need} of memory, more than the {have} of --max-memory"

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on where another one stopped; holds no path."""
        recipe = canonical(self.recipe)
        for key in ("model", "base_model", "calibration", "architecture"):
            if recipe.get(key):
                recipe[key] = Path(recipe[key]).name
        for member in recipe.get("models", []):
            member["model"] = Path(member["model"]).name
        return {
            "tool": f"nashsolve {__version__}",
            "recipe": recipe,
            "architecture": self.adapter.model_dump() if self.adapter else None,
            "inputs": [_stamps(source) for source in (*self.sources, *filter(None, [self.calibration]))],
            "outputs": {file.name: {"bytes": file.nbytes, "tensors": len(file.tensors)} for file in self.files},
        }

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "job": self.recipe.job,
            "merge_method": self.recipe.merge_method,
            "moe_layers": len(self.layers),
            "experts_before": self.layers[0].num_experts if self.layers else None,
            "experts_after": self.experts_out or None,
            "expert_bytes_before": self.expert_bytes[0],
            "expert_bytes_after": self.expert_bytes[1],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "output_files": {file.name: file.nbytes for file in self.files},
            "peak_memory_bytes": self.peak_bytes,
            "max_memory_bytes": self.max_memory,
            "disk_bytes": self.output_bytes + self.scratch_bytes,
            "scratch_bytes": self.scratch_bytes,
            "bargaining_problems": self.problems,
            "problem_sizes": self.problem_sizes,
            "statements": list(self.statements),
            "unsupported": list(self.unsupported),
        }

    def __str__(self) -> str:
        lines = []
        if self.layers:
            before = self.layers[0].num_experts
            sizes = " -> ".join(f"{b / GIB:.3f}" for b in self.expert_bytes)
            lines.append(f"experts a layer  {before} -> {self.experts_out} in {len(self.layers)} layers ({sizes} GiB)")
        lines.append(f"weights          {self.input_bytes / GIB:.3f} GiB in, {self.output_bytes / GIB:.3f} GiB out")
        lines.append(f"peak memory      {self.peak_bytes / 2**20:.0f} MiB of {self.max_memory / 2**20:.0f} allowed")
        disk = (self.output_bytes + self.scratch_bytes) / GIB
        lines.append(f"disk             {disk:.3f} GiB, of which scratch {self.scratch_bytes / GIB:.3f}")
        lines.append(f"problems         {self.problems} ({self.problem_sizes})")
        lines += [f"- {text}" for text in self.statements]
        lines += [f"UNSUPPORTED: {text}" for text in self.unsupported]
        return "\n".join(lines)


def _stamps(source: Checkpoint) -> dict[str, Any]:
    files = {f.name: {"size": f.size, "header_sha256": f.header_sha256} for f in source.files.values()}
    return {"name": source.name, "fingerprint": source.fingerprint, "files": files}
