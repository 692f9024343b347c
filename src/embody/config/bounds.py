"""The numbers that a setting may hold, as types that annotate its field: `width: Count = 128`.

`check_bounds` checks them before anything runs, so that a mistake does not show after hours of training.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from embody.errors import UserError, one_line

__all__ = [
    "Count",
    "Natural",
    "NotNegative",
    "Positive",
    "PositiveShare",
    "Range",
    "Share",
    "ShareBelowOne",
    "check_bounds",
]


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`; `above` excludes `low` itself, `below` excludes `high` itself.

    NaN is in no range. `most` is a bound far above any sensible number: it keeps a config that another person wrote
    from taking all memory, and only a message about a number beyond it names it.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    most: int = 2**53  # up to which JSON and float64 hold all whole numbers

    def __contains__(self, number: float) -> bool:
        if abs(number) > self.most:  # before the comparison with infinity, for which a whole number can be too large
            return False
        at_open_end = (self.above and number == self.low) or (self.below and number == self.high)
        return self.low <= number <= self.high and not math.isinf(number) and not at_open_end

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if not self.above and not self.below:
            return f"from {self.low:g} to {self.high:g}"
        low, high = "above" if self.above else "at least", "below" if self.below else "at most"
        return f"{low} {self.low:g}, {high} {self.high:g}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]


def check_bounds(config: Any) -> None:
    """Raises a `UserError` for the first number out of its range in `config`, a dataclass, or in one of its parts."""
    for path, part in _parts(config, ""):
        hints = typing.get_type_hints(type(part), include_extras=True)
        for field in dataclasses.fields(part):
            for number, allowed, kind in _numbers(getattr(part, field.name), hints[field.name]):
                if isinstance(number, bool) or not isinstance(number, int if kind is int else int | float):
                    wanted = "an integer" if kind is int else "a number"
                    raise UserError(f"{path}{field.name} must be {wanted} {allowed}, got {one_line(repr(number), 60)}")
                if allowed.most < abs(number) < math.inf:
                    raise UserError(f"{path}{field.name} must be at most {allowed.most}, got {one_line(number, 60)}")
                if number not in allowed:
                    raise UserError(f"{path}{field.name} must be {allowed}, got {number:g}")


def _numbers(value: Any, hint: Any) -> Iterator[tuple[float, Range, type]]:
    """Each number in a field's value with its range and type; a tuple gives its numbers one by one."""
    if isinstance(value, tuple):
        kinds = [kind for kind in typing.get_args(hint) if kind is not ...]
        for place, item in enumerate(value):
            yield from _numbers(item, kinds[min(place, len(kinds) - 1)])
    else:
        for allowed in getattr(hint, "__metadata__", ()):
            if isinstance(allowed, Range):
                yield value, allowed, hint.__origin__


def _parts(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _parts(value, f"{path}{field.name}.")
    yield path, config
