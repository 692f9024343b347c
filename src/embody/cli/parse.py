"""From arguments to what they ask for, and which errors are the user's."""

import contextlib
import errno
import io
import shlex
from collections.abc import Callable, Mapping, Sequence

import tyro

from embody.cli import data, evaluate, plan, train
from embody.cli.settings import SETTINGS, Command, base_config, named_first
from embody.config import Config
from embody.errors import UserError

__all__ = ["is_users_mistake", "parse"]

# Beside `UserError`: a file or folder that is not there, in the way or forbidden, a server that does not answer, and
# an output that nobody reads (`embody plan | head`).
_MISTAKES = (
    UserError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ConnectionError,
)
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk that is full, or cannot be written


def is_users_mistake(error: Exception) -> bool:
    """Whether the user can put `error` right, for whom its message is enough."""
    return isinstance(error, _MISTAKES) or (isinstance(error, OSError) and error.errno in _NO_PLACE)


def parse(arguments: Sequence[str]) -> Callable[[], object]:
    """What the arguments ask for, still to be done; a `UserError` of one line if they ask for nothing sensible."""
    base = base_config(arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                dict(_commands(base, shlex.join(["embody", *arguments]))),
                prog="embody",
                description="Train agents inside a learned world model (Dreamer 4).",
                args=list(arguments),
                config=(tyro.conf.HelptextFromCommentsOff,),
                registry=SETTINGS,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_in_one_line(said.getvalue())) from None


def _commands(base: Config, command: str) -> Mapping[str, Command]:
    functions = (
        *data.commands(base),
        *train.commands(base, command),
        *evaluate.commands(base, command),
        *plan.commands(base),
    )
    return {function.__name__.rstrip("_"): named_first(base.preset, function) for function in functions}


def _in_one_line(box: str) -> str:
    """What tyro says in a box of several lines, parted by rules, under a title."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts = " ".join("|" if set(line) == {"─"} else line for line in lines).split("|")
    # Its name for the place of the settings is nobody's business.
    text = "; ".join(part.strip() for part in parts).replace("__tyro-dummy-inner__.config.", "")
    return text.removeprefix("Error parsing __tyro-dummy-inner__.config: ")
