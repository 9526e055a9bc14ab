"""YAML from strangers: the safe subset, no duplicate keys, no aliases, bounded size; and pydantic models of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import CheckpointRefused
from .header import show

MAX_BYTES = 2**20
MAX_DEPTH = 24

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """Base of everything people write: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what it would silently resolve: duplicates, aliases, depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases are not used in recipes", self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, "nested too deeply", self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.MarkedYAMLError(None, None, f"the key {show(key)} is not a word", key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {show(key)} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=True)


def load_text(text: str, source: str) -> Any:
    """Plain lists, dictionaries and scalars from YAML.

    Raises
    ------
    CheckpointRefused
        With the line.
    """
    if len(text) > MAX_BYTES:
        raise CheckpointRefused(f"{source} is longer than {MAX_BYTES} characters")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise CheckpointRefused(f"{source}{line}: {(error.problem or 'this is not YAML')[:200]}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise CheckpointRefused(f"{source} is not YAML: {str(error)[:200]}") from None


def load_file(path: str | os.PathLike[str]) -> Any:
    """What `load_text` reads, from a file."""
    file = Path(path)
    with file.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    try:
        return load_text(raw.decode("utf-8-sig"), file.name)
    except UnicodeDecodeError:
        raise CheckpointRefused(f"{file.name} is not text in UTF-8") from None


def validate(kind: type[Model], data: Any, source: str) -> Model:
    """A pydantic model of `data`; the first finding becomes one sentence with place, value and nearest name.

    Raises
    ------
    CheckpointRefused
    """
    if not isinstance(data, Mapping):
        raise CheckpointRefused(f"{source} holds {show(data)}; a mapping of keys to values is needed")
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        findings = error.errors()
        first = next((e for e in findings if e["type"] == "extra_forbidden"), findings[0])
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = _names_at(kind, first["loc"][:-1])
            near = get_close_matches(str(first["loc"][-1]), names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise CheckpointRefused(
                f"{source} has an unknown key {show(place)}.{hint} Keys here: {', '.join(names)}."
            ) from None
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
        if first["type"] == "missing":
            raise CheckpointRefused(f"{source}: {place} is missing") from None
        value = "" if isinstance(first["input"], dict) else f" is {show(first['input'])}"
        hint = _nearest_choice(first)
        raise CheckpointRefused(f"{source}: {place}{value}; {message}{hint}".replace(": ;", ":")) from None


def _nearest_choice(finding: Any) -> str:
    expected = str(finding.get("ctx", {}).get("expected", ""))
    choices = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    near = get_close_matches(str(finding["input"]), choices, 1)
    return f". Did you mean {near[0]!r}?" if near else ""


def _names_at(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """Keys of the model that a location leads to."""
    for part in place:
        fields = getattr(kind, "model_fields", {})
        if part in fields:
            kind = _inner(fields[part].annotation)
    return sorted(getattr(kind, "model_fields", {}))


def _inner(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner(argument)
        if found is not None:
            return found
    return None
