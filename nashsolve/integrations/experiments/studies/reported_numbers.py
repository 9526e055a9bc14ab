"""Sentences of the paper held against its own tables: no model is trained, the printed numbers are compared."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import comb

from ..book import Book
from ..reported import Reported, reported_tables
from ..study import Claim, Records, Strict

RTE_ITEMS = 277
"""Size of RTE's development set, of which printed accuracies must be averages."""
SEEDS = 5


class Settings(Strict):
    """Nothing to choose: everything follows from the printed numbers."""


def number(text: str) -> float:
    """The value of a printed cell, without its deviation."""
    return float(text.partition("±")[0].replace(",", "").rstrip("%"))


def cells(table: Reported, column: str) -> dict[str, float]:
    """Row -> number of one column."""
    at = table.columns.index(column)
    return {" ".join(row[: table.keys]): number(row[at]) for row in table.rows}


def lowest_perplexity(t: dict[str, Reported]) -> tuple[str, bool]:
    columns = t["table_1"].columns[2:]
    best = {column: min(rows := cells(t["table_1"], column), key=rows.__getitem__) for column in columns}
    told = ", ".join(f"{column}: {name}" for column, name in best.items())
    return f"lowest in table 1: {told}", set(best.values()) == {"NAMEx-Full-Mom"}


def peak_of_phase(t: dict[str, Reported]) -> tuple[str, bool]:
    rte = {k: v for k, v in cells(t["table_5"], "RTE").items() if k.endswith(" NAMEx")}
    top = max(rte, key=rte.__getitem__).split()[0]
    return f"NAMEx is best on RTE at phi = {top} ({max(rte.values())})", top == "pi/12"


def decline_without_phase(t: dict[str, Reported]) -> tuple[str, bool]:
    above = []
    for column in t["table_5"].columns[2:]:
        values = cells(t["table_5"], column)
        for model in ("EP-CAMEx", "NAMEx"):
            others = [v for k, v in values.items() if k.endswith(f" {model}") and not k.startswith("0 ")]
            above += [f"{model} {column}"] if values[f"0 {model}"] > min(others) else []
    return f"phi = 0 is above some other phase for {', '.join(above) or 'none'}", not above


def phase_and_main_table(t: dict[str, Reported]) -> tuple[str, bool]:
    told, inside = [], True
    for column, main in (("MRPC", "MRPC"), ("RTE", "RTE")):
        top = max(v for k, v in cells(t["table_5"], column).items() if k.endswith(" NAMEx"))
        mine = cells(t["table_2"], main)["NAMEx-Mom"]
        told.append(f"{column}: table 2 {mine}, best of table 5 {top}")
        inside &= mine <= top
    return "; ".join(told), inside


def possible_mean(value: float, items: int = RTE_ITEMS, runs: int = SEEDS) -> bool:
    """Whether an accuracy printed with two digits, rounded or cut off, is a mean of up to `runs` runs over `items`."""
    printed = round(100 * value)
    for total in range(items, items * runs + 1, items):
        nearest = round(value / 100 * total)
        means = [1e4 * hits / total for hits in (nearest - 1, nearest, nearest + 1)]
        if any(printed in (round(mean), int(mean)) for mean in means):
            return True
    return False


def averages_of_items(t: dict[str, Reported]) -> tuple[str, bool]:
    printed = {v for name in ("table_2", "table_5", "table_7") for v in cells(t[name], "RTE").values()}
    wrong = sorted(v for v in printed if not possible_mean(v))
    return (
        f"{len(wrong)} of {len(printed)} RTE values are no mean of up to {SEEDS} runs, rounded or cut off: {wrong}",
        not wrong,
    )


def flops_three_times(t: dict[str, Reported]) -> tuple[str, bool]:
    train, infer = cells(t["table_13"], "TrainTFLOPs"), cells(t["table_13"], "InferTFLOPs")
    ratio = {name: train[name] / infer[name] for name in ("SMoE", "SMoE(Top-2)")}
    told = ", ".join(f"{name} {value:.2f}" for name, value in ratio.items())
    return f"training over inference: {told}", abs(ratio["SMoE"] - ratio["SMoE(Top-2)"]) < 0.01


def throughput_restored(t: dict[str, Reported]) -> tuple[str, bool]:
    rate = cells(t["table_13"], "TrainThroughput(tok/s)")
    names = ("NAMEX", "NAMEx-Full", "NAMEx-Full-Mom")
    told = ", ".join(f"{name} {rate[name]:,.0f}" for name in names)
    return told, rate["NAMEx-Full-Mom"] > rate["NAMEX"]


def solver_seconds(t: dict[str, Reported]) -> tuple[str, bool]:
    batch, share = cells(t["table_12"], "MeanBatch(s)"), cells(t["table_12"], "%NBSTime")
    spent = {k: batch[k] * share[k] / 100 for k in batch}
    rest = ", ".join(f"{batch[k] - spent[k]:.2f}" for k in batch)
    told = ", ".join(f"{v:.2f}" for v in spent.values())
    values = list(spent.values())
    return (
        f"seconds of solving for intervals 1, 2, 5, L: {told} (rest: {rest}); 1 to L: x{values[0] / values[-1]:.0f}",
        abs(values[0] / values[1] - 2) < 0.2 and abs(values[0] / values[2] - 5) < 0.5,
    )


def noise_of_epochs(t: dict[str, Reported]) -> tuple[str, bool]:
    table = t["table_14"]
    steps = {name: {round(b - a, 3) for a, b in pairwise(cells(table, name).values())} for name in table.columns[1:]}
    exact = {name: found.copy().pop() for name, found in steps.items() if len(found) == 1}
    told = ", ".join(f"{name} {step:+.3f}" for name, step in exact.items())
    return f"the same change at every epoch: {told or 'none'}", not exact


def longer_is_better(t: dict[str, Reported]) -> tuple[str, bool]:
    late, early = cells(t["table_14"], "EP-CAMEX")["90"], cells(t["table_3"], "Acc@1")["EP-CAMEx"]
    return f"EP-CAMEx: {early} after 30 epochs (table 3), {late} after 90 (table 14)", late > early


def same_system_same_score(t: dict[str, Reported]) -> tuple[str, bool]:
    names = ("Zero-Shot MMLU", "Zero-Shot GSM8K", "Zero-Shot ARC")
    one = [cells(t["table_4"], n)["Linear NAMEx-Full(0disagreementpoint)"] for n in names]
    other = [cells(t["table_8"], n)["Deepseek-MoE 2(ChosenConfig)"] for n in names]
    return f"DeepSeek, linear router, NAMEx-Full: {one} in table 4, {other} in table 8", one == other


def independent_rows(t: dict[str, Reported]) -> tuple[str, bool]:
    table = t["table_8"]
    fine = [tuple(row[5:]) for row in table.rows if row[0] == "Deepseek-MoE"]
    twins = sum(fine[i] == fine[j] for i in range(len(fine)) for j in range(i))
    return f"{twins} of {comb(len(fine), 2)} pairs of DeepSeek's rows agree in all three fine-tuned scores", twins == 0


def small_disagreement(t: dict[str, Reported]) -> tuple[str, bool]:
    apart = {}
    for name in ("table_4", "table_17"):
        table = t[name]
        zero = {row[0]: row[2:] for row in table.rows if "(0dis" in row[1]}
        mean = {row[0]: row[2:] for row in table.rows if "(mean" in row[1]}
        apart[name] = max(abs(number(a) - number(b)) for k in zero for a, b in zip(zero[k], mean[k], strict=True))
    told = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in apart.items())
    return f"largest difference of the two disagreement points: {told}", max(apart.values()) <= 0.1


Check = Callable[[dict[str, Reported]], tuple[str, bool]]
CHECKS: dict[str, tuple[str, str, Check]] = {
    "perplexity": ("NAMEx-Full-Mom has the lowest perplexities at both scales.", "text on table 1", lowest_perplexity),
    "peak": ("RTE peaks at phi = pi/12.", "text on table 5", peak_of_phase),
    "decline": ("All tasks decline at phi = 0.", "text on table 5", decline_without_phase),
    "main table": ("Table 2's NAMEx-Mom is a setting of table 5.", "tables 2 and 5", phase_and_main_table),
    "items": ("Printed accuracies are means over seeds.", "RTE, tables 2, 5 and 7", averages_of_items),
    "flops": ("Training costs three times inference.", "table 13", flops_three_times),
    "throughput": ("Momentum restores the throughput that NAMEx loses.", "text on table 13", throughput_restored),
    "seconds": ("Solving time is proportional to the number of solves.", "table 12", solver_seconds),
    "epochs": ("Accuracies at the end of training fluctuate.", "table 14", noise_of_epochs),
    "longer": ("More epochs do not hurt.", "tables 3 and 14", longer_is_better),
    "same": ("The same system has the same scores in two tables.", "tables 4 and 8", same_system_same_score),
    "rows": ("Rows of an ablation are runs of their own.", "table 8", independent_rows),
    "disagreement": (
        "Both disagreement points score within 0.1.",
        "section 5 ('about 0.04'), table 17",
        small_disagreement,
    ),
}


def run(settings: Settings, book: Book) -> None:
    """Every check."""
    tables = reported_tables()
    for key in book.todo(CHECKS):
        found, holds = CHECKS[key][2](tables)
        book.record(key, found=found, holds=holds)


def reduced(settings: Settings) -> Settings:
    """It takes no time."""
    return settings


def claims(records: Records) -> list[Claim]:
    """One for each check."""
    found = []
    for record in records:
        text, paper, _ = CHECKS[record["key"]]
        holds = record["holds"]
        reason = "follows from the printed numbers" if holds else "the printed numbers contradict it"
        found.append(Claim(text, paper, record["found"], "reproduced" if holds else "not reproduced", reason))
    return found
