"""Compile the Triton kernels for sm_90 without a GPU: registers, spills and widths of the loads, as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nashsolve.tall.fused import launch_shape
from nashsolve.tall.triton_kernels import combine_columns, gram_partials, sum_partials

POINTER = {tl.bfloat16: "*bf16", tl.float32: "*fp32"}


def assembled(ptx):
    """What the assembler says about registers. Triton may bring several, of which one knows the version of its PTX."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        for tool in sorted((Path(nvidia.__file__).parent / "bin").glob("ptxas*")):
            command = [str(tool), "-v", "-arch=sm_90a", str(file), "-o", str(file.with_suffix(".cubin"))]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode == 0:
                return run.stderr
    raise RuntimeError(f"no assembler took the kernel: {run.stderr}")


def compiled(kernel, types, constants, warps=4, stages=3):
    """Figures of one kernel whose pointers and lengths are multiples of 16."""
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in types}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, hints)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})
    ptx = built.asm["ptx"]
    said = assembled(ptx)
    return {
        "spilled": sum(int(x) for x in re.findall(r"(\d+) bytes spill", said)),
        "registers": max(int(x) for x in re.findall(r"Used (\d+) registers", said)),
        "shared": built.metadata.shared,
        "wide": len(re.findall(r"cp\.async\.cg|ld\.global\.v4", ptx)),
        "atomics": len(re.findall(r"\batom\.|\bred\.", ptx)),
    }


def gram(n, kind, pieces):
    padded = max(16, triton.next_power_of_2(n))
    shape = launch_shape(padded, kind.primitive_bitwidth // 8)
    types = {"table": "*i64", "base": POINTER[kind], "partial": "*fp64", "d": "i32"}
    constants = {"N": n, "NP": padded, "BLOCK": shape.block, "KIND": kind, "HAS_BASE": True, "PIECES": pieces}
    return compiled(gram_partials, types, constants | {"ALIGNED": True, "EMULATED": False}, shape.warps, shape.stages)


def combine(n, kind):
    types = {"table": "*i64", "base": POINTER[kind], "numbers": "*fp32", "out": POINTER[kind], "d": "i32"}
    types |= dict.fromkeys(("p_old", "q_old", "p_new", "q_new"), "*fp32")
    constants = {"N": n, "BLOCK": 1024, "KIND": kind, "WIDE": tl.float32, "HAS_BASE": True, "BUFFERS": 2}
    return compiled(combine_columns, types, constants | {"HAS_OLD": True, "ALIGNED": True})


def reduction(n):
    types = {"partial": "*fp64", "out": "*fp64", "count": "i32"}
    return compiled(sum_partials, types, {"N": n, "NP": 64, "WIDTH": 64, "DEEP": 16})


if __name__ == "__main__":
    found = {
        "gram 8 bfloat16": gram(8, tl.bfloat16, 2),
        "gram 60 bfloat16": gram(60, tl.bfloat16, 2),
        "gram 60 float32": gram(60, tl.float32, 3),
        "combine 60 bfloat16": combine(60, tl.bfloat16),
        "reduction 60": reduction(60),
    }
    json.dump(found, sys.stdout, indent=1)
