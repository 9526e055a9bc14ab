"""The report of an output as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from . import disk
from .errors import CheckpointRefused
from .finish import REPORT
from .journal import COMPLETE
from .pictures import colours, image

_STYLE = """
:root { color-scheme: light; --ink: #1c2530; --soft: #5c6773; --line: #dfe3e8; --paper: #fff; --tint: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 8px; }
p { margin: 6px 0 12px; max-width: 70ch; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin: 20px 0; }
.card { background: var(--tint); border-radius: 8px; padding: 10px 12px; }
.card b { display: block; font-size: 1.25rem; line-height: 1.3; overflow-wrap: anywhere; }
.card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; padding-bottom: 4px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
table.heat td { border: 0; padding: 0; }
table.heat th { border: 0; padding: 0 10px 0 0; font-weight: 400; }
.row { display: flex; } .row i { width: 16px; height: 18px; margin-bottom: 1px; } .row b { width: 5px; }
.maps { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; }
figcaption { font-size: .8rem; color: var(--soft); } img.map { image-rendering: pixelated; display: block; }
pre { background: var(--tint); border-radius: 8px; padding: 12px; overflow-x: auto; font-size: .85rem; }
code.hash { font-size: .78rem; overflow-wrap: anywhere; white-space: normal; }
.key { display: inline-block; width: 120px; height: 10px; vertical-align: middle; border-radius: 3px;
  background: linear-gradient(90deg, #2b6cb0, #f7f7f5, #c04a1d); }
ul { padding-left: 20px; max-width: 70ch; } .bad { color: #a8321a; font-weight: 600; }
"""

_MAPS = 64
"""Cosine maps on a page; a model with more layers shows the first ones and says so."""


def report(out: str | os.PathLike[str], html: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The report of a finished output; with `html`, also as a self-contained page.

    Parameters
    ----------
    out : folder that a run wrote
    html : file to write, replaced where it exists

    Returns
    -------
    dict
        What the page shows, with the hashes of all files.

    Raises
    ------
    CheckpointRefused, OutputFailed
    """
    folder = Path(out)
    try:
        mark = json.loads((folder / COMPLETE).read_text())
        data = json.loads((folder / REPORT).read_text())
        data["sha256"] = dict(mark["sha256"])
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        raise CheckpointRefused(f"{folder.name} has no {name}: it is not a finished output") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointRefused(f"{folder.name}/{COMPLETE} or {REPORT} is damaged") from None
    if html is not None:
        disk.publish(Path(html), page(data).encode())
    return dict(data)


def page(data: dict[str, Any]) -> str:
    """The whole page."""
    names = [source["name"] for source in data["inputs"]]
    is_moe = "layers" in data
    title = (
        f"{names[0]}: {data['experts_before']} experts to {data['experts_after']}" if is_moe else f"{names[0]}, merged"
    )
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Merged by <b>{escape(data["merge_method"])}</b> with {escape(data["tool"])}.</p>',
        _cards(data),
        _list(data["statements"]),
        *(_layers(data) if is_moe else _units(data)),
        "<h2>Recipe</h2><pre>" + escape(yaml.safe_dump(data["recipe"], sort_keys=False)) + "</pre>",
        "<h2>Files</h2>" + _files(data),
        "<h2>Before you use it</h2><p>Merging without further training usually costs quality. Run the same recipe with "
        "<code>merge_method: mean</code> and compare both with the source on your own data.</p>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def _records(data: dict[str, Any]) -> list[dict[str, Any]]:
    if "layers" not in data:
        return list(data["units"])
    return [r for layer in data["layers"] for r in (*layer["groups"], *filter(None, [layer["chain"]]))]


def _cards(data: dict[str, Any]) -> str:
    records = [r for r in _records(data) if r["status"]]
    bounds = [r["error_bound"] for r in records if r["error_bound"] is not None]
    good = sum(r["status"] in ("SOLVED", "SOLVED_INACCURATE") for r in records)
    cards = []
    if "layers" in data:
        cards.append(
            (f"{data['experts_before']} \u2192 {data['experts_after']}", f"experts in {len(data['layers'])} layers")
        )
        cards.append((" \u2192 ".join(_size(b) for b in data["expert_bytes"]), "expert weights"))
    else:
        cards.append((str(len(data["models"])), "fine-tunes of one base"))
    cards.append((_size(data["output_bytes"]), "weights written"))
    cards.append((f"{good} of {len(records)}" if records else "none", "bargaining problems agreed"))
    if bounds:
        cards.append((f"{max(bounds):.0e}", "largest certified error of an alpha"))
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{b}</b><span>{s}</span></div>' for b, s in cards)
        + "</div>"
    )


def _layers(data: dict[str, Any]) -> list[str]:
    layers = data["layers"]
    rows = []
    for layer in layers:
        cells = []
        for record in layer["groups"]:
            count = len(record["members"])
            for expert, share in zip(record["members"], record["coefficients"], strict=True):
                words = f"{layer['prefix']}, group of {count}: expert {expert}, coefficient {share:.4f}"
                cells.append(_cell(share * count if count > 1 else math.nan, 1.0, 0.5, words))
            cells.append("<b></b>")
        rows.append((layer["prefix"], cells))
    text = (
        "<p>Each cell is an expert, each block a group that became one expert. Orange experts weigh more than in a "
        'plain mean, blue ones less (<span class="key"></span> half to one and a half times); white stands alone.'
        "</p>"
    )
    found = ["<h2>Coefficients</h2>", text, _heat(rows), "<h2>Groups</h2>", _layer_table(layers)]
    maps = [(y["prefix"], y["cosines"]) for y in layers if y["cosines"]]
    return [*found, *_cosines(maps, "expert weights", len(layers))]


def _layer_table(layers: Sequence[dict[str, Any]]) -> str:
    head = ["layer", "groups", "largest", "statuses", "smallest gain", "smallest margin", "error at most"]
    rows = []
    for layer in layers:
        groups = layer["groups"]
        sizes = [len(r["members"]) for r in groups]
        rows.append([layer["prefix"], str(len(groups)), str(max(sizes)), *_outcome(groups)])
    return _table(head, rows)


def _units(data: dict[str, Any]) -> list[str]:
    units, models = data["units"], data["models"]
    n = len(models)
    rows = []
    for unit in units:
        shares = zip(models, unit["coefficients"], strict=True)
        cells = [_cell(c * n, 1.0, 0.5, f"{unit['unit']}: {m}, coefficient {c:.4f}") for m, c in shares]
        rows.append((unit["unit"], cells))
    text = (
        f"<p>Each cell is a fine-tune ({', '.join(escape(m) for m in models)}) in one unit. Orange ones weigh more "
        'than in a plain mean, blue ones less (<span class="key"></span> half to one and a half times).</p>'
    )
    head = ["unit", "statuses", "smallest gain", "smallest margin", "error at most"]
    table = _table(head, [[u["unit"], *_outcome([u])] for u in units])
    maps = [(u["unit"], u["cosines"]) for u in units if u.get("cosines")]
    found = ["<h2>Coefficients</h2>", text, _heat(rows), "<h2>Agreements</h2>", table]
    return [*found, *_cosines(maps, "task vectors", len(units))]


def _outcome(records: Sequence[dict[str, Any]]) -> list[str]:
    """Statuses, smallest gain, margin and largest bound of some problems."""
    words: dict[str, int] = {}
    for record in records:
        if record["status"]:
            words[record["status"]] = words.get(record["status"], 0) + 1
    text = ", ".join(f"{count} {name}" for name, count in words.items()) or "nothing to solve"
    gains = [g for r in records if r["gains"] for g in r["gains"]]
    margins = [r["margin"] for r in records if r["margin"] is not None]
    bounds = [r["error_bound"] for r in records if r["error_bound"] is not None]
    return [
        text,
        f"{min(gains):.3g}" if gains else "",
        f"{min(margins):.3g}" if margins else "",
        f"{max(bounds):.0e}" if bounds else "",
    ]


def _cosines(maps: Sequence[tuple[str, Any]], what: str, of: int) -> list[str]:
    if not maps:
        return []
    figures = []
    for name, matrix in maps[:_MAPS]:
        picture = image(matrix, 0.0, 1.0, f"cosines of {what} in {name}")
        figures.append(f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>")
    left = f" The first {_MAPS} of {of} are shown." if len(maps) > _MAPS else ""
    text = (
        f"<p>Cosines between {what}, from \u22121 (blue) to 1 (orange), in the order of the checkpoint "
        f'(<span class="key"></span>).{left}</p>'
    )
    return ["<h2>Cosines</h2>", text, '<div class="maps">' + "".join(figures) + "</div>"]


def _cell(value: float, middle: float, reach: float, words: str) -> str:
    r, g, b = colours(np.array([value]), middle, reach)[0]
    border = "" if math.isfinite(value) else ";box-shadow:inset 0 0 0 1px #dfe3e8"
    return f'<i style="background:rgb({r},{g},{b}){border}" title="{escape(words)}"></i>'


def _heat(rows: Iterable[tuple[str, list[str]]]) -> str:
    body = "".join(
        f'<tr><th>{escape(name)}</th><td><div class="row">{"".join(cells)}</div></td></tr>' for name, cells in rows
    )
    return f'<div class="wide"><table class="heat">{body}</table></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)

    def cell(text: str) -> str:
        bad = any(word in text for word in ("NO_AGREEMENT", "AMBIGUOUS", "MAX_", "NUMERICAL"))
        return f'<td class="bad">{escape(text)}</td>' if bad else f"<td>{escape(text)}</td>"

    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _files(data: dict[str, Any]) -> str:
    sizes = {name: entry["bytes"] for name, entry in data["outputs"].items()}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_size(sizes[name]) if name in sizes else ''}</td>"
        f'<td><code class="hash">{escape(digest)}</code></td></tr>'
        for name, digest in data["sha256"].items()
    )
    return f'<div class="wide"><table><tr><th>file</th><th>size</th><th>sha256</th></tr>{rows}</table></div>'


def _list(sentences: Sequence[str]) -> str:
    return (
        "<ul>" + "".join(f"<li>{escape(s[:1].upper() + s[1:])}.</li>" for s in sentences) + "</ul>" if sentences else ""
    )


def _size(nbytes: float) -> str:
    power = min(3, int(math.log(max(nbytes, 1), 1024)))
    return f"{nbytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
