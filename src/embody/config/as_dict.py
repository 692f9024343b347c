"""Converts settings to plain values for JSON, and back."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from embody.errors import UserError

__all__ = ["digest", "from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as nested dictionaries of JSON-ready values."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], kinds: Mapping[type, type] | None = None) -> T:
    """The dataclass `cls` from the values of `to_dict`. Raises a `UserError` for an unknown field or a wrong type.

    `kinds` maps a class in annotations to the subclass that such fields hold.
    """
    return _build(cls, values, cls.__name__, kinds or {})


def _build(kind: Any, value: Any, where: str, kinds: Mapping[type, type]) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a table of fields, got {value!r}")
        kind = kinds.get(kind, kind)
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise UserError(f"{where}: unknown field {unknown[0]!r}")
        return kind(**{name: _build(hints[name], item, f"{where}.{name}", kinds) for name, item in value.items()})
    if get_origin(kind) is tuple:
        kinds_of_items = get_args(kind)
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {value!r}")
        if kinds_of_items[-1] is not ... and len(value) != len(kinds_of_items):
            raise UserError(f"{where}: expected {len(kinds_of_items)} values, got {len(value)}")
        return tuple(_build(kinds_of_items[0], item, where, kinds) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_other = isinstance(kind, types.UnionType | type) and not isinstance(value, kind)
    if is_other or (isinstance(value, bool) and kind is int):  # to Python, True is an int
        raise UserError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {value!r}")
    return value


def digest(values: Any) -> str:
    """Twelve hex digits that identify JSON-ready values (SHA-256)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
