"""What conversion or upcycling changed, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .merging import Merging

HEAD = ("layer", "experts", "each", "rule", "weights of", "base expert", "chain", "added")


def changes(merging: Merging) -> str:
    """One line a layer, and a line of sums."""
    rows = [HEAD, *(_row(merging, k) for k in range(len(merging.layers)))]
    widths = [max(len(row[c]) for row in rows) for c in range(len(HEAD))]
    numbers = {1, 2, 7}
    lines = [
        "  ".join(
            cell.rjust(w) if c in numbers else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    added = sum(p.numel() for p in merging.parameters())
    where = "by " + ", ".join(sorted({way for _, way in merging.places}))
    lines.append(f"{len(merging.layers)} layers {where}; {added:,} parameters added beside the model's own")
    return "\n".join(line.rstrip() for line in lines)


def _row(merging: Merging, k: int) -> tuple[str, ...]:
    layer = merging.members[k]
    view, neutral = layer.expert_view(), layer.neutral
    chain, position = "", 0
    if layer.place is not None:
        number = merging.chains.index(layer.place[0])
        position = layer.place[1]
        chain = f"{number}, position {position} of {len(layer.place[0])}"
    if not layer.config.needs_base:
        base = "none"
    elif position:
        base = "of the chain"
    else:
        index = layer.config.base.index
        base = f"slice {index} of the shared expert" if layer.shared is not None else f"own ({layer.config.base.init})"
    return (
        layer.name,
        str(view.n),
        f"{view.size:,}",
        "unchanged" if neutral else layer.config.merge.rule,
        "token" if neutral else layer.stack.level,
        base,
        chain,
        f"{sum(p.numel() for p in layer.parameters()):,}",
    )
