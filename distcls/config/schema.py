"""Reads the type hints in settings.py, for the loader, and turns them into a JSON schema for editors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from distcls.config.durations import DURATION_PATTERN
from distcls.config.settings import AugmentConfig, Config

LIMIT_KEYWORDS = {
    "minimum": "minimum",
    "above": "exclusiveMinimum",
    "maximum": "maximum",
    "below": "exclusiveMaximum",
}
"""The JSON Schema keyword for each limit of `settings.setting`."""


def json_schema() -> dict[str, Any]:
    """Return the schema of a YAML config (JSON Schema 2020-12), which lets editors complete and check settings."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A config of distcls",
        **_section_schema(Config),
    }


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the type hint of each setting and section in a dataclass of settings.py."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def is_section(hint: Any) -> TypeGuard[type]:
    """True if a type hint is one of the dataclasses of settings.py."""
    return dataclasses.is_dataclass(hint)


def split_optional(hint: Any) -> tuple[Any, bool]:
    """Return (X, True) for `X | None`, and (hint, False) for anything else."""
    if NoneType in alternatives(hint):
        (inner,) = (part for part in alternatives(hint) if part is not NoneType)
        return inner, True
    return hint, False


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return (X, Y) for `X | Y`, and (hint,) for anything else."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _section_schema(kind: type) -> dict[str, Any]:
    """Return the schema of a section, which may be empty; augment may also be 'none'."""
    properties = {field.name: _setting_schema(field, hints_of(kind)[field.name]) for field in dataclasses.fields(kind)}
    section = {"type": ["object", "null"], "additionalProperties": False, "properties": properties}
    return {"anyOf": [section, {"enum": ["none"]}]} if kind is AugmentConfig else section


def _setting_schema(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    schema = {"description": field.metadata["doc"], **_value_schema(hint, field.metadata)}
    if not is_section(hint):
        schema["default"] = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return schema


def _value_schema(hint: Any, limits: Mapping) -> dict[str, Any]:
    """Return the JSON schema of the values that the loader accepts. The limits of a list apply to its items."""
    inner, optional = split_optional(hint)
    if len(alternatives(inner)) > 1:
        return {"anyOf": [_value_schema(part, limits) for part in alternatives(inner)]}
    if is_section(inner):
        return _section_schema(inner)
    if get_origin(inner) is Literal:
        return {"enum": [*get_args(inner), *([None] if optional else [])]}
    if get_origin(inner) is list:
        return {"type": _either_type("array", optional), "items": _value_schema(get_args(inner)[0], limits)}
    if get_origin(inner) is dict:
        return {"type": ["object", "null"]}
    if limits.get("duration"):
        return {"type": _either_type(["string", "integer"], optional), "pattern": DURATION_PATTERN, "minimum": 0}
    types = {str: ["string", "number"], bool: "boolean", int: "integer", float: "number"}
    ranges = {keyword: limits[name] for name, keyword in LIMIT_KEYWORDS.items() if name in limits}
    return {"type": _either_type(types[inner], optional), **ranges}


def _either_type(types: str | list[str], optional: bool) -> str | list[str]:
    return [*([types] if isinstance(types, str) else types), "null"] if optional else types


def hint_at(keys: Sequence[str]) -> Any:
    """Return the type of a setting, or the class of a section; None for what is neither, such as model.args.width."""
    kind: Any = Config
    for key in keys:
        kind, _ = split_optional(hints_of(kind).get(key)) if is_section(kind) else (None, False)
    return kind
