"""The picture of the results: bits per byte before and after merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"nash": "#c04a1d", "mean": "#2b6cb0", "frequency": "#5c8a3a", "prune": "#7a7a7a"}


def draw(found: dict[str, Any], path: Path) -> None:
    """Two panels: experts merged inside the model, and fine-tunes merged into one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    source = found["experts"]["source"]["8"]
    for method, colour in COLOURS.items():
        row = found["experts"][method]
        style = {"linestyle": "--", "marker": "s", "markersize": 9, "fillstyle": "none", "zorder": 3}
        shown = style if method == "nash" else {"marker": "o"}
        left.plot([8, 4, 1], [source, row["4"], row["1"]], color=colour, label=method, **shown)
    left.set_xticks([8, 4, 1])
    left.invert_xaxis()
    left.set_xlabel("experts left in each layer")
    left.set_ylabel("bits per byte, held-out library sources")
    left.set_title("Experts merged inside one model")
    left.legend(frameon=False)
    kinds = list(found["tasks"]["base"])
    names = list(found["tasks"])
    for i, kind in enumerate(kinds):
        values = [found["tasks"][name][kind] for name in names]
        right.plot(values, range(len(names)), "o", color=("#2b6cb0", "#5c8a3a", "#c04a1d")[i], label=kind)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.grid(axis="y", alpha=0.3)
    right.set_xlabel("bits per byte, held-out files of each kind")
    right.set_title("Fine-tunes merged by task vectors")
    right.legend(frameon=False, title="text")
    figure.savefig(path, dpi=130)
    plt.close(figure)
