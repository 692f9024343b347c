"""Reading JSON that others may have written: size, depth and numbers are bounded, and only regular files are read."""

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from embody.errors import UserError

__all__ = ["MOST_BYTES", "open_regular", "parse_json", "read_object"]

MOST_BYTES = 2**24  # of a file or a line; a Python object takes up to 30 times as much memory as its text
_MOST_LEVELS = 64
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[{\]}]")


def open_regular(path: Path) -> BinaryIO:
    """Open the file `path` for reading; a `ValueError` if it is a FIFO, a device or a folder.

    A FIFO would block and a device may never end. Links to files are followed.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise ValueError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'special')}, not a regular file")
    return os.fdopen(handle, "rb")


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in the file `path`; a `UserError`, which ends with `remedy`, if it is damaged or too big."""
    try:
        with open_regular(path) as file:
            value = parse_json(file.read(MOST_BYTES + 1))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    return value


def parse_json(text: str | bytes, *, nan: bool = False) -> Any:
    """The value of `text`, which is JSON in UTF-8. A `ValueError` says which bound it exceeds, or what else is wrong.

    NaN and infinity are refused unless `nan` is true; whole numbers of more than 64 bits and text that is not Unicode
    always are.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MiB of JSON")
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    _check_depth(text)
    try:
        value = json.loads(text, parse_constant=float if nan else _refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if "\\ud" in text.lower():  # half of a surrogate pair, which could be neither printed nor stored
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > _MOST_LEVELS:
            raise ValueError(f"JSON that is nested more than {_MOST_LEVELS} levels deep")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:20]} has more than 64 bits")
    return int(text)
