"""From arguments to what they ask for, and which errors are the user's."""

import contextlib
import dataclasses
import errno
import functools
import io
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

import embody
from embody.cli.data import Collect, Encode, Import, Relocate
from embody.cli.evaluate import Compare, Evaluate, Report
from embody.cli.help import command_help, program_help
from embody.cli.options import SETTINGS, check_options, options
from embody.cli.plan import Plan, Weights
from embody.cli.settings import base_config
from embody.cli.train import Ablate, Run, Train
from embody.config import Config
from embody.errors import UserError, did_you_mean

__all__ = ["COMMANDS", "initial", "is_users_mistake", "parse"]

COMMANDS: Mapping[str, type[Any]] = {
    "run": Run,
    "collect": Collect,
    "import": Import,
    "data relocate": Relocate,
    "train": Train,
    "encode": Encode,
    "evaluate": Evaluate,
    "report": Report,
    "compare": Compare,
    "ablate": Ablate,
    "plan": Plan,
    "weights": Weights,
}
_HELP = ("-h", "--help", "--help-all")

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
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # a disk that is full, or cannot be written


def is_users_mistake(error: Exception) -> bool:
    """Whether the user can put `error` right, for whom its message is enough."""
    return isinstance(error, _MISTAKES) or (isinstance(error, OSError) and error.errno in _NO_PLACE)


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """What the arguments ask for, still to be done; a `UserError` of one line if they ask for nothing sensible.

    Help and the version are printed at once: then this ends the program.
    """
    name, rest = _command(arguments)
    if name in (*_HELP, "--version"):
        print(f"embody {embody.__version__}" if name == "--version" else program_help(COMMANDS, _width()))
        raise SystemExit(0)
    if name not in COMMANDS:
        group = {other: kind for other, kind in COMMANDS.items() if other.startswith(f"{name} ")}
        if group and rest and rest[0] in _HELP:
            print(program_help(group, _width()))
            raise SystemExit(0)
        typed = " ".join([name, *rest[:1]]) if group else name
        unknown = f"unknown command {typed!r}{did_you_mean(typed, COMMANDS)}" if name else "no command"
        raise UserError(f"{unknown}: choose one of {', '.join(group or COMMANDS)}; `embody --help` describes them")
    wanted = [argument for argument in rest if argument in _HELP]
    rest = [argument for argument in rest if argument not in _HELP]
    default = initial(COMMANDS[name], base_config([name, *rest]))
    if wanted:
        print(command_help(name, default, rest, everything="--help-all" in wanted, width=_width()))
        raise SystemExit(0)
    check_options(rest, options(default), name)
    command = _filled(name, default, rest)
    preset = getattr(command, "preset", None)
    if preset is not None and preset != default.preset:
        raise UserError(
            f"{preset} stands behind an option: name the preset first, as in `embody run {preset} --seed 1`"
        )
    return functools.partial(command.start, shlex.join(["embody", *arguments]))


def _command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command, of two words if it belongs to a group, and the arguments behind it."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    return " ".join(arguments[:words]), list(arguments[words:])


def initial(kind: type[Any], base: Config) -> Any:
    """A command of that kind before its arguments are read; the settings of `base` are its defaults."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in ("preset", "config"):
            values[field.name] = base if field.name == "config" else base.preset
        elif field.default is field.default_factory is dataclasses.MISSING:
            values[field.name] = tyro.MISSING
    return kind(**values)


def _filled(name: str, default: Any, arguments: Sequence[str]) -> Any:
    """The command with its arguments; what tyro says of a mistake becomes a `UserError` of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(default),
                prog=f"embody {name}",
                args=list(arguments),
                default=default,
                config=(tyro.conf.DisallowNone,),
                registry=SETTINGS,
                add_help=False,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        text = _in_one_line(said.getvalue())
        if text.startswith("Missing from"):
            needed = [f.name.upper() for f in dataclasses.fields(default) if getattr(default, f.name) is tyro.MISSING]
            text = f"`embody {name}` needs {' and '.join(needed)}: `embody {name} --help` describes them"
        raise UserError(text.replace("Unrecognized options", "too many arguments")) from None


def _in_one_line(box: str) -> str:
    """What tyro says in a box of several lines: the part above its first rule, without its title."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    rules = [place for place, line in enumerate(lines) if set(line) == {"─"}]
    text = " ".join(lines[: rules[0]] if rules else lines)
    text = re.sub(r"no type matching .* Got errors: - <class '\w+'>: ", "", text)  # of the one type that may be None
    return re.sub(r"^Error parsing (?!-)\S+: ", "", text)  # its name for the place of the settings


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 120)
