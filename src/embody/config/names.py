"""The names of runs, tasks and datasets, each of which is the name of a folder."""

import unicodedata

from embody.errors import UserError

__all__ = ["check_name"]

_LONGEST = 200  # bytes; file systems allow 255, and log files add a time to the name
_SEPARATORS = "/\\:"  # of folders and drives, on any system


def check_name(setting: str, name: str) -> None:
    """A `UserError` names the `setting` if `name` cannot be the name of a folder on every system.

    Letters of any alphabet are allowed.
    """
    if not name.strip():
        wrong = "is empty"
    elif any(char in _SEPARATORS for char in name):
        wrong = "has one of the characters / \\ :"
    elif any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        wrong = "has a control character, or is not valid UTF-8"
    elif name != name.strip() or name.endswith("."):
        wrong = "begins or ends with a space, or ends with a dot"
    elif len(name.encode()) > _LONGEST:
        wrong = f"has more than {_LONGEST} bytes"
    else:
        return
    shown = name if len(name) <= 40 else f"{name[:40]}..."
    raise UserError(f"{setting} {shown!r} {wrong}: it must be the name of one folder, such as minigrid-2")
