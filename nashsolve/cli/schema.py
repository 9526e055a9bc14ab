"""What a .json or .npz file may hold: every key by name, everything else an error with the nearest key."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nashsolve.core.errors import InvalidProblem

Row = list[float]
Matrix = list[Row]


class ProblemFile(BaseModel):
    """One bargaining problem, the arguments of BargainingProblem."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vectors: Matrix | None = None
    gram: Matrix | None = None
    weights: Row | None = None
    disagreement: Row | None = None
    radius: float | None = None
    metric: Matrix | Row | None = None
    names: list[str] | None = None
    gram_error: float | None = None


KEYS = tuple(ProblemFile.model_fields)


def check_keys(given: Any, source: str) -> None:
    """Unknown keys raise with the nearest valid name."""
    for key in given:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidProblem(f"{source} has an unknown key {key!r}.{hint} Keys: {', '.join(KEYS)}.")


def parse(data: dict[str, Any], source: str) -> dict[str, Any]:
    """The arguments given in `data`; the first finding raises with its place and value."""
    check_keys(data, source)
    try:
        found = ProblemFile.model_validate(data).model_dump(exclude_none=True)
    except ValidationError as error:
        raise InvalidProblem(f"{source}: {_sentence(error.errors()[0], data)}") from None
    for key in ("vectors", "gram", "metric"):
        check_rows(found.get(key), key, source)
    return found


def check_rows(rows: Any, name: str, source: str) -> None:
    """Rows of a matrix have one length."""
    if not rows or not isinstance(rows[0], list):
        return
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InvalidProblem(f"{source}: {name}[{i}] has {len(row)} entries, but {name}[0] has {len(rows[0])}")


def _sentence(error: Any, data: dict[str, Any]) -> str:
    key, *rest = error["loc"]
    where = [i for i in rest if isinstance(i, int)]
    value: Any = data[key]
    for i in where:
        value = value[i]
    shown = repr(value)
    place = f"{key}[{', '.join(map(str, where))}]" if where else str(key)
    what = error["msg"].replace("Input should be ", "it should be ")
    return f"{place} is {shown if len(shown) < 40 else shown[:36] + '...'}; {what}"
