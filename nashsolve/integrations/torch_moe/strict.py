"""Configuration classes that refuse what they do not know, and say which name was probably meant."""

from __future__ import annotations

import difflib
from typing import Any, Self

from nashsolve.core.errors import InvalidProblem, MissingExtra

try:
    from pydantic import BaseModel, ConfigDict, ValidationError
except ImportError as error:
    raise MissingExtra("pydantic", "moe") from error


def nearest(name: str, known: list[str]) -> str:
    """A sentence that names the closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


class Strict(BaseModel):
    """Frozen settings: unknown keys, wrong types and values out of range raise InvalidProblem."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidProblem(_explain(type(self), error)) from None

    def changed(self, **values: Any) -> Self:
        """A validated copy with other values; nested settings may be given as dicts."""
        return type(self)(**(self.model_dump() | values))


def _explain(owner: type[BaseModel], error: ValidationError) -> str:
    """Every complaint in one line each: where, what was given, what to do."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            # Nested settings raise for themselves, so that an unknown name is always one of `owner`'s own.
            lines.append(f"{owner.__name__} has no setting {where!r}; {nearest(where, list(owner.model_fields))}")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]))
        elif item["type"] == "missing":
            lines.append(f"{owner.__name__} needs {where!r}")
        else:
            lines.append(f"{owner.__name__}.{where} is {item['input']!r}: {item['msg']}")
    return "; ".join(lines)
