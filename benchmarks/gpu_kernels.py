"""Triton kernels that only the measurements need."""

import triton
import triton.language as tl


@triton.jit
def dot_chain(x, out, d, N: tl.constexpr, BLOCK: tl.constexpr, EVERY: tl.constexpr):
    """Gram (N, N) of rows x (N, d) by one program; the accumulator is emptied into another after EVERY blocks."""
    rows = tl.arange(0, N)
    total = tl.zeros((N, N), dtype=tl.float32)
    acc = tl.zeros((N, N), dtype=tl.float32)
    for block in range(0, d // BLOCK):
        cols = block * BLOCK + tl.arange(0, BLOCK)
        tile = tl.load(x + rows[:, None].to(tl.int64) * d + cols[None, :])
        acc = tl.dot(tile, tl.trans(tile), acc)
        if EVERY > 0:  # noqa: SIM102 - decided while compiling, so apart from what is decided while running
            if block % EVERY == EVERY - 1:
                total += acc
                acc = tl.zeros((N, N), dtype=tl.float32)
    tl.store(out + rows[:, None] * N + rows[None, :], total + acc)
