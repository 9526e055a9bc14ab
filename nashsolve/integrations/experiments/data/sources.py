"""Rows of published data sets: from a folder of yours, or through the package datasets; a missing one is a sentence."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from nashsolve.core.errors import InvalidProblem, MissingExtra

from ...torch_moe.strict import Strict

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


class Source(Strict):
    """Where rows come from.

    Attributes
    ----------
    folder : of files named after their part, such as train.jsonl, validation.tsv or test.parquet; None asks the package
        datasets for `hub`
    hub : name on the hub
    subset : of the data set, such as "sst2"
    limit : rows of a part that are read; None for all
    """

    folder: str | None = None
    hub: str = ""
    subset: str | None = None
    limit: int | None = Field(default=None, ge=1)


def rows(source: Source, part: str) -> list[dict[str, Any]]:
    """Every row of a part as a dict.

    Parameters
    ----------
    source : where from
    part : "train", "validation", "test"

    Raises
    ------
    InvalidProblem
        Where the folder has no such file, or the download is not possible.
    MissingExtra
        Without the package that reads them.
    """
    found = _from_hub(source, part) if source.folder is None else _from_folder(Path(source.folder), part)
    result: list[dict[str, Any]] = []
    for row in found:
        if source.limit is not None and len(result) >= source.limit:
            break
        result.append(dict(row))
    if not result:
        raise InvalidProblem(f"{source.folder or source.hub} has no rows in its part {part!r}")
    return result


def column(row: dict[str, Any], name: str, where: str) -> Any:
    """A cell; raises InvalidProblem with the columns that there are."""
    if name not in row:
        raise InvalidProblem(f"{where} has no column {name!r}; it has {', '.join(row)}")
    return row[name]


def _from_folder(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        raise InvalidProblem(f"{folder} is not a folder; put {part}.jsonl (or .csv, .tsv, .parquet) into it")
    file = next((folder / f"{part}{s}" for s in SUFFIXES if (folder / f"{part}{s}").exists()), None)
    if file is None:
        raise InvalidProblem(f"{folder} has no {part}.jsonl, .json, .csv, .tsv or .parquet")
    if file.suffix == ".parquet":
        yield from _parquet(file)
        return
    with file.open(encoding="utf-8", newline="") as stream:
        if file.suffix == ".jsonl":
            for line in stream:
                if line.strip():
                    yield json.loads(line)
        elif file.suffix == ".json":
            yield from json.load(stream)
        elif file.suffix == ".tsv":
            # GLUE's files quote nothing, and their sentences hold quotation marks.
            yield from csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            yield from csv.DictReader(stream)


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("pyarrow", "experiments", f"reading {file.name}") from None
    yield from parquet.read_table(file).to_pylist()


def _from_hub(source: Source, part: str) -> Any:
    if not source.hub:
        raise InvalidProblem("data.folder is not set, and neither is data.hub: there is nothing to read")
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra("datasets", "experiments", f"downloading {source.hub}; or set data.folder") from None
    try:
        return load_dataset(source.hub, source.subset, split=part)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidProblem(
            f"{source.hub} could not be downloaded ({type(error).__name__}: {reason}); download it on a machine with a "
            f"network and set data.folder to a folder that holds {part}.jsonl"
        ) from error
