"""The differences between two sets of JSON-ready settings, and a text that describes them."""

from collections.abc import Mapping
from typing import Any

__all__ = ["Differences", "described", "differences"]

Differences = Mapping[str, tuple[Any, Any]]  # by path, such as `training.lr`: (value found, value wanted)

_MOST_NAMED = 4
_MOST_CHARACTERS = 40
_ABSENT = "nothing"


def differences(found: Any, wanted: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """All settings in which two nested mappings differ, by path. A value that one side lacks is "nothing"."""
    if found == wanted:
        return {}
    if not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return {path: (found, wanted)}
    result: dict[str, tuple[Any, Any]] = {}
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        inner = f"{path}.{name}" if path else str(name)
        result |= differences(found.get(name, _ABSENT), wanted.get(name, _ABSENT), inner)
    return result


def described(different: Differences) -> str:
    """The first few differences as text: `training.lr was 0.1, is now 0.01`."""
    named = [f"{path} was {_short(old)}, is now {_short(new)}" for path, (old, new) in different.items()]
    more = len(named) - _MOST_NAMED
    return "; ".join(named[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
