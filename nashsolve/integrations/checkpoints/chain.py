r"""The base expert carried from layer to layer, with momentum, by the block and in scratch files. [namex2025]_

.. math:: p' = rp - uq + \Delta, \quad q' = up + rq, \quad E' = E + \gamma p', \qquad \Delta = \sum_i c_i (E_i - E)

A quaternion :math:`(a, v)` acts on real input as the complex number :math:`a + i\|v\|`, so two buffers are enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import MoeLayer
from .ranks import Alone
from .reader import Reader
from .recipe import Chain
from .vectors import Scratch, ScratchWriter, Stored, Vector, Zero, chunks, combination, parts_of, shared_slice

Array = np.ndarray[Any, Any]


def file_name(layer: int) -> str:
    """Scratch file of the base of a layer."""
    return f"chain-{layer}.f32"


def multiplier(beta: Sequence[float]) -> tuple[float, float]:
    """Real and imaginary part of the momentum."""
    if not beta:
        return 0.0, 0.0
    return beta[0], math.hypot(*beta[1:]) if len(beta) > 1 else 0.0


def begins(layers: Sequence[MoeLayer], k: int) -> bool:
    """True where a chain starts: at the first layer, and where the experts' shapes change."""
    return k == 0 or layers[k].shape_key != layers[k - 1].shape_key


def start(layers: Sequence[MoeLayer], k: int, chain: Chain, reader: Reader, work: Path, group: Alone) -> None:
    """Write the base of a layer where a chain begins."""
    layer = layers[k]
    parts = parts_of(layer.experts[0])
    if group.rank == 0:
        if chain.initial == "shared":
            first: Vector = shared_slice(reader, layer)
        elif chain.initial == "dominant":
            first = longest(reader, layer)
        else:
            first = Zero()
        with ScratchWriter(work / file_name(k), parts) as file:
            for piece in chunks(parts):
                file.put(first.read(*piece))
    group.wait()


def advance(
    layers: Sequence[MoeLayer],
    k: int,
    chain: Chain,
    coefficients: Array,
    reader: Reader,
    work: Path,
    group: Alone,
) -> None:
    """Write the base of the next layer, unless a chain ends here, and the momentum that it continues with.

    What layer k + 1 reads is never what layer k reads, so a step that was interrupted is simply done again.
    """
    if k + 1 < len(layers) and not begins(layers, k + 1):
        if group.rank == 0:
            _step(layers[k], k, chain, coefficients, reader, work)
        group.wait()


def _step(layer: MoeLayer, k: int, chain: Chain, coefficients: Array, reader: Reader, work: Path) -> None:
    parts = parts_of(layer.experts[0])
    r, u = multiplier(chain.beta)
    base = Scratch(work / file_name(k), parts)
    experts: list[Vector] = [Stored(reader, segments) for segments in layer.experts]
    weights = [*(float(c) for c in coefficients), -float(coefficients.sum())]
    p, q = (_momentum(work, name, k, parts) for name in "pq")
    files = [ScratchWriter(work / file_name(k + 1), parts)]
    files += [ScratchWriter(work / f"momentum-{name}-{k + 1}.f32", parts) for name in _buffers(r, u)]
    try:
        for piece in chunks(parts):
            step = combination(weights, [*experts, base], *piece)
            old_p, old_q = p.read(*piece), q.read(*piece)
            new_p = np.float32(r) * old_p - np.float32(u) * old_q + step
            files[0].put(base.read(*piece) + np.float32(chain.gamma) * new_p)
            for file, values in zip(files[1:], (new_p, np.float32(u) * old_p + np.float32(r) * old_q), strict=False):
                file.put(values)
    except BaseException as error:
        for file in files:
            file.__exit__(type(error))
        raise
    for file in reversed(files):
        file.__exit__(None)
    for name in "pq":
        (work / f"momentum-{name}-{k - 1}.f32").unlink(missing_ok=True)


def _buffers(r: float, u: float) -> str:
    """Which of p and q the next layer needs."""
    return "pq" if u else "p" if r else ""


def _momentum(work: Path, name: str, k: int, parts: Any) -> Vector:
    path = work / f"momentum-{name}-{k}.f32"
    return Scratch(path, parts) if path.exists() else Zero()


def longest(reader: Reader, layer: MoeLayer) -> Stored:
    """The expert with the largest norm."""
    parts = parts_of(layer.experts[0])
    experts = [Stored(reader, segments) for segments in layer.experts]
    norms = [sum(float(np.square(e.read(*c).astype(np.float64)).sum()) for c in chunks(parts)) for e in experts]
    return experts[int(np.argmax(norms))]
