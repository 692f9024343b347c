"""`results.json`: reading and writing the results of a run, which have stable dotted keys."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embody.errors import UserError, one_line
from embody.saving.atomic_write import write_text
from embody.saving.json_files import read_object

__all__ = ["Results", "lookup", "read_results", "showing", "write_results"]

Results = Mapping[str, Any]


def lookup(results: Results, key: str) -> Any:
    """The value at a dotted key such as `success.cloning.mean`; None if it is missing."""
    value: Any = results
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def write_results(path: Path, results: Results) -> None:
    """Write `results` as JSON, atomically. NaN and infinity become null, numpy values plain numbers and lists."""
    write_text(path, json.dumps(_plain(results), indent=2, allow_nan=False) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; a `UserError` if the file holds something else, or a text that cannot be printed."""
    results = read_object(path, "run `embody evaluate` again")
    for text in _texts(results):
        if not text.isprintable():
            raise UserError(f"{path} holds the text {one_line(text, 60)}: run `embody evaluate` again")
    return results


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value if isinstance(value, Mapping | list) else ():
        yield from _texts(inner)
    for inner in value.values() if isinstance(value, Mapping) else ():
        yield from _texts(inner)


@contextlib.contextmanager
def showing(place: str) -> Iterator[None]:
    """Raise errors of the block, which shows the results in `place`, as a `UserError`.

    Another version writes other keys and types. The cause of the `UserError` says where the block stumbled.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{place} has results of another version or damaged ones ({type(error).__name__}: {error}): run `embody"
            " evaluate` again"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
