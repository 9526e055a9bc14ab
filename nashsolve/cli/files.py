"""Reading problems and lists of numbers: .json, .npz, .npy and .csv, never pickle."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem
from nashsolve.core.problem import BargainingProblem

from . import schema

FORMATS = (".json", ".npz", ".npy", ".csv")
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}


def read_problem(file: Path, *, vectors: bool = False, **overrides: Any) -> BargainingProblem:
    """The problem of a file, with the arguments given on the command line in place of the file's.

    Parameters
    ----------
    file : path with one of the suffixes .json, .npz, .npy, .csv
        .json, .npz: the arguments of BargainingProblem by name; .json also a bare matrix. .npy: one matrix.
        .csv with a Gram: an optional header names the players. .csv with vectors: a row is a player, an
        optional header is skipped, and a first column that is not numeric holds the names.
    vectors : a bare matrix holds vectors (rows are players), not a Gram
    **overrides : weights, disagreement, radius; None leaves the file's

    Raises
    ------
    InvalidProblem, OSError
    """
    read = {".json": _json, ".npz": _npz, ".npy": _npy, ".csv": _csv}
    arguments = read[_suffix(file)](file, "vectors" if vectors else "gram")
    if vectors and "vectors" not in arguments:
        raise InvalidProblem(f"{file.name} holds a gram, not vectors: leave --vectors out")
    arguments |= {name: value for name, value in overrides.items() if value is not None}
    plain = ("names", "gram_error")
    ready: dict[str, Any] = {k: v if k in plain else _array(v, k) for k, v in arguments.items()}
    return BargainingProblem(**ready)


def read_numbers(text: str | None, name: str) -> np.ndarray | None:
    """Numbers from a comma list or from a .json, .npy or .csv file."""
    if text is None:
        return None
    file = Path(text)
    if file.suffix.lower() in FORMATS or file.exists():
        return _numbers_of(_numbers_from(file, name), name)
    return _numbers_of([t.strip() for t in text.split(",")], name)


def read_answer(text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """alpha, and coefficients where needed: from a list, a file, or what `solve --json` printed."""
    file = Path(text)
    if file.suffix.lower() == ".json":
        data = _load_json(file)
        if isinstance(data, dict):
            return _from_solution(data, file)
    alpha = read_numbers(text, "alpha")
    assert alpha is not None
    return alpha, None


def _from_solution(data: dict[str, Any], file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    data = data.get("solution", data)
    if "alpha" not in data:
        raise InvalidProblem(f"{file.name} has no key 'alpha'; give a list or the output of solve --json")
    if data.get("status") == "NO_AGREEMENT":
        return _numbers_of(data["certificate"], "certificate"), None
    inside = data.get("ball_multiplier") == 0
    return (
        _numbers_of(data["alpha"], "alpha"),
        _numbers_of(data["coefficients"], "coefficients") if inside else None,
    )


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in FORMATS:
        raise InvalidProblem(
            f"{file.name} is none of {', '.join(FORMATS)}; pickles and checkpoints are never opened, "
            "for they can run code"
        )
    return suffix


def _json(file: Path, key: str) -> dict[str, Any]:
    data = _load_json(file)
    if isinstance(data, list):
        data = {key: data}
    if not isinstance(data, dict):
        raise InvalidProblem(f"{file.name} holds neither an object nor a matrix")
    return schema.parse(data, file.name)


def _load_json(file: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [k for k, _ in pairs]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise InvalidProblem(f"{file.name} has the key {twice!r} twice")
        return dict(pairs)

    try:
        return json.loads(_text(file), object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidProblem(f"{file.name} is not JSON: {error}") from None
    except ValueError as error:
        if isinstance(error, InvalidProblem):
            raise
        raise InvalidProblem(f"{file.name} holds a number that cannot be read: {error}") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidProblem(f"{file.name} is not text in UTF-8") from None


def _npz(file: Path, key: str) -> dict[str, Any]:
    arguments = _load_numpy(file)
    schema.check_keys(arguments, file.name)
    if "names" in arguments:
        arguments["names"] = [str(name) for name in np.atleast_1d(arguments["names"])]
    if "gram_error" in arguments:
        arguments["gram_error"] = arguments["gram_error"][()]
    return arguments


def _npy(file: Path, key: str) -> dict[str, Any]:
    return {key: _load_numpy(file)}


def _load_numpy(file: Path) -> Any:
    suffix = file.suffix.lower()
    with file.open("rb") as stream:
        start = stream.read(6)
        if not start.startswith(_MAGIC[suffix]):
            raise InvalidProblem(f"{file.name} is not a {suffix} file")
        stream.seek(0)
        try:
            loaded = np.load(stream, allow_pickle=False)
            return loaded if suffix == ".npy" else {k: loaded[k] for k in loaded.files}
        except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
            objects = "Object arrays" in str(error)
            why = "it holds Python objects, which are never unpickled" if objects else f"it is damaged ({error})"
            raise InvalidProblem(f"{file.name} cannot be read: {why}") from None


def _csv(file: Path, key: str) -> dict[str, Any]:
    lines = _lines(file)
    first = lines[0]
    headed = not all(_is_number(cell) for cell in (first[1:] if key == "vectors" else first))
    headed = headed or (key == "gram" and len(lines) == len(first) + 1)
    body = lines[1:] if headed else lines
    if not body:
        raise InvalidProblem(f"{file.name} has a header and no rows")
    labelled = not any(_is_number(row[0]) for row in body)
    names = [row[0] for row in body] if labelled else None
    cells = [row[1:] for row in body] if labelled else body
    if key == "gram" and headed:
        header = first[1:] if labelled else first
        if names is not None and names != header:
            raise InvalidProblem(f"{file.name}: the names of the rows are not those of the header, in its order")
        names = header
    width = len(cells[0])
    for i, row in enumerate(cells):
        if len(row) != width:
            raise InvalidProblem(f"{file.name}: row {i} has {len(row)} numbers, but row 0 has {width}")
        for j, cell in enumerate(row):
            if not _is_number(cell):
                raise InvalidProblem(f"{file.name}: {key}[{i}, {j}] is {cell!r}; a number is needed")
    found: dict[str, Any] = {key: [[float(cell) for cell in row] for row in cells]}
    return found if names is None else {**found, "names": names}


def _lines(file: Path) -> list[list[str]]:
    try:
        rows = list(csv.reader(_text(file).splitlines(), strict=True))
    except csv.Error as error:
        raise InvalidProblem(f"{file.name} is not CSV: {error}") from None
    lines = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not lines:
        raise InvalidProblem(f"{file.name} is empty")
    return lines


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers_from(file: Path, name: str) -> Iterable[Any]:
    suffix = _suffix(file)
    if suffix == ".json":
        data = _load_json(file)
        if not isinstance(data, list):
            raise InvalidProblem(f"{file.name} holds no list of numbers for {name}")
        return data
    if suffix == ".csv":
        return [cell for line in _lines(file) for cell in line]
    if suffix == ".npz":
        raise InvalidProblem(f"{name} is read from .json, .npy or .csv, not from {file.name}")
    return np.atleast_1d(_load_numpy(file)).tolist()


def _numbers_of(values: Any, name: str) -> np.ndarray:
    found = []
    for i, value in enumerate(values if isinstance(values, list) else [values]):
        number = math.nan
        if isinstance(value, int | float | str) and not isinstance(value, bool) and _is_number(str(value)):
            number = float(value)
        if not math.isfinite(number):
            raise InvalidProblem(f"{name}[{i}] is {value!r}; a finite number is needed")
        found.append(number)
    return np.asarray(found)


def _array(value: Any, name: str) -> np.ndarray:
    found = np.asarray(value)
    if name in ("gram", "vectors") and found.ndim != 2:
        raise InvalidProblem(f"{name} has shape {found.shape}; the command line takes one problem, two axes")
    return found
