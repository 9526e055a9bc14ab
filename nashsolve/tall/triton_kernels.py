"""Triton kernels over tables of pointers: experts are read where they lie, once, and no atomic operation is used.

Arguments carry no annotation but `constexpr`: Triton reads annotations as code of the kernel.
"""

import triton
import triton.language as tl


@triton.jit
def _differences(pointers, base, cols, rows, d, N: tl.constexpr, HAS_BASE: tl.constexpr, MASKED: tl.constexpr):
    """A tile (rows, cols) of E_i - base in float32, zero outside; all columns are inside unless MASKED."""
    places = pointers[:, None] + cols[None, :]
    live = (rows < N)[:, None]
    inside = cols < d
    if MASKED:
        live = live & inside[None, :]
    x = tl.load(places, mask=live, other=0.0).to(tl.float32)
    if HAS_BASE:
        if MASKED:
            b = tl.load(base + cols, mask=inside, other=0.0).to(tl.float32)
        else:
            b = tl.load(base + cols).to(tl.float32)
        x = tl.where(live, x - b[None, :], 0.0)
    return x


@triton.jit
def _dot(x, y, acc, EMULATED: tl.constexpr):
    """acc + x y' of bfloat16 tiles. The interpreter multiplies the bits of bfloat16 as if they were numbers."""
    if EMULATED:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, tl.trans(y), acc, input_precision="ieee")


@triton.jit
def _tile_gram(x, NP: tl.constexpr, PIECES: tl.constexpr, EMULATED: tl.constexpr):
    """The tile's Gram but for its antisymmetric part, by bfloat16 products: x = high + middle + low.

    high high' + 2 high (middle + low)' + middle middle': its symmetric part is the Gram, since the reduction adds
    the transpose.
    """
    high = x.to(tl.bfloat16)
    acc = tl.zeros((NP, NP), dtype=tl.float32)
    if PIECES > 1:
        rest = x - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        if PIECES > 2:
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            acc = _dot(high, (2.0 * low.to(tl.float32)).to(tl.bfloat16), acc, EMULATED)
        acc = _dot(middle, middle, acc, EMULATED)
        acc = _dot(high, (2.0 * middle.to(tl.float32)).to(tl.bfloat16), acc, EMULATED)
    return _dot(high, high, acc, EMULATED)


@triton.jit
def gram_partials(
    table, base, partial, d, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
    KIND: tl.constexpr, HAS_BASE: tl.constexpr, PIECES: tl.constexpr, ALIGNED: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Each program takes a run of blocks and stores one partial Gram (NP, NP), summed in float64."""
    program = tl.program_id(0)
    rows = tl.arange(0, NP)
    address = tl.load(table + rows, mask=rows < N, other=0)
    pointers = address.to(tl.pointer_type(KIND))
    if ALIGNED:
        pointers = tl.multiple_of(pointers, 16)
    whole = d // BLOCK
    share = tl.cdiv(tl.cdiv(d, BLOCK), tl.num_programs(0))
    first = program * share
    last = tl.minimum(first + share, whole)
    within = tl.arange(0, BLOCK)
    total = tl.zeros((NP, NP), dtype=tl.float64)
    start = first.to(tl.int64) * BLOCK + within
    for k in range(0, last - first):
        cols = tl.max_contiguous(tl.multiple_of(start + k * BLOCK, BLOCK), BLOCK)
        x = _differences(pointers, base, cols, rows, d, N, HAS_BASE, False)
        total += _tile_gram(x, NP, PIECES, EMULATED).to(tl.float64)
    if (first <= whole) & (whole < first + share) & (whole * BLOCK < d):
        cols = whole.to(tl.int64) * BLOCK + within
        x = _differences(pointers, base, cols, rows, d, N, HAS_BASE, True)
        total += _tile_gram(x, NP, PIECES, EMULATED).to(tl.float64)
    place = rows[:, None] * NP + rows[None, :]
    tl.store(partial + program.to(tl.int64) * NP * NP + place, total)


@triton.jit
def sum_partials(partial, out, count, N: tl.constexpr, NP: tl.constexpr, WIDTH: tl.constexpr, DEEP: tl.constexpr):
    """out (N, N) = the symmetric part of the sum of `count` partials, in index order."""
    place = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    i, j = place // NP, place % NP
    live = (i < N) & (j < N)
    total = tl.zeros((WIDTH,), dtype=tl.float64)
    for start in range(0, count, DEEP):
        k = start + tl.arange(0, DEEP)
        mask = (k < count)[:, None] & live[None, :]
        at = k.to(tl.int64)[:, None] * NP * NP
        one = tl.load(partial + at + (i * NP + j)[None, :], mask=mask, other=0.0)
        other = tl.load(partial + at + (j * NP + i)[None, :], mask=mask, other=0.0)
        total += tl.sum(one + other, axis=0)
    tl.store(out + i * N + j, 0.5 * total, mask=live)


@triton.jit
def combine_columns(
    table, base, numbers, out, p_old, q_old, p_new, q_new, d,
    N: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, WIDE: tl.constexpr, HAS_BASE: tl.constexpr,
    BUFFERS: tl.constexpr, HAS_OLD: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """base + Re(gamma mu'), mu' = beta mu + sum c_i (E_i - base); `numbers`: c_1 .. c_N, Re gamma, Im gamma, r, u."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    cols = tl.max_contiguous(tl.multiple_of(first + tl.arange(0, BLOCK), BLOCK), BLOCK)
    live = cols < d
    below = tl.zeros((BLOCK,), dtype=WIDE)
    if HAS_BASE:
        below = tl.load(base + cols, mask=live, other=0.0).to(WIDE)
    delta = tl.zeros((BLOCK,), dtype=WIDE)
    for i in range(N):
        pointer = tl.load(table + i).to(tl.pointer_type(KIND))
        if ALIGNED:
            pointer = tl.multiple_of(pointer, 16)
        x = tl.load(pointer + cols, mask=live, other=0.0).to(WIDE)
        delta += tl.load(numbers + i) * (x - below)
    move = tl.load(numbers + N) * delta
    if BUFFERS > 0:
        r = tl.load(numbers + N + 2)
        p = delta
        if HAS_OLD:
            before = tl.load(p_old + cols, mask=live, other=0.0)
            p += r * before
        if BUFFERS > 1:
            u = tl.load(numbers + N + 3)
            q = tl.zeros((BLOCK,), dtype=WIDE)
            if HAS_OLD:
                turned = tl.load(q_old + cols, mask=live, other=0.0)
                p -= u * turned
                q = u * before + r * turned
            tl.store(q_new + cols, q, mask=live)
            move = tl.load(numbers + N) * p - tl.load(numbers + N + 1) * q
        else:
            move = tl.load(numbers + N) * p
        tl.store(p_new + cols, p, mask=live)
    tl.store(out + cols, below + move, mask=live)
