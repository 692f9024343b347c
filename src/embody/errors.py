"""The exception for a user's mistake, which the command line prints as one line, and the words of such messages.

Any other exception is a bug.
"""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "WriteError", "did_you_mean", "install_extra", "one_line"]

_LONGEST = 2000  # characters of a message


class UserError(ValueError):
    """A user's mistake. The message says in one line what is wrong, where, and what to do."""


class WriteError(UserError):
    """A file or folder that the system does not let this process write: the disk is full, or read-only."""


def one_line(text: object, limit: int = _LONGEST) -> str:
    """`text` as one line of at most `limit` characters that is safe to print and to log, whoever wrote it.

    Line breaks, control and formatting characters and invalid UTF-8 are escaped as Python's `repr` does (`\\n`,
    `\\x1b`). The end of a longer text is replaced by "...".
    """
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text)[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def install_extra(extra: str) -> str:
    """Advice for a missing package: the command that installs `extra`, one of the extras in pyproject.toml."""
    return f'run `pip install -e ".[{extra}]"` in the clone of embody'


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """` (did you mean X?)` with the nearest of `choices`, empty if none is near.

    A setting without its group, such as `--lr`, gets those of all groups: `--train-tokenizer.lr`, ...
    """
    choices = list(choices)
    in_groups = [choice for choice in choices if choice.endswith(f".{word.removeprefix('--')}")]
    near = in_groups or difflib.get_close_matches(word, choices, n=1, cutoff=0.65)
    return f" (did you mean {', '.join(near)}?)" if near else ""
