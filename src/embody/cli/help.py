"""The text of `--help`: what a command does, its arguments, and its options in groups.

`--help` of a command shows the options that people change most (`SHOWN`), `--help-all` every option.
"""

import dataclasses
import fnmatch
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from embody.cli.options import OPTIONS, Option, field_docs, options, positionals
from embody.cli.shown import SHOWN
from embody.cli.train import stage_named
from embody.games import games
from embody.games.registry import recording_kinds
from embody.run.stages import STAGES

__all__ = ["command_help", "program_help"]

_WIDE = 110  # columns from which an option and its explanation stand side by side
_BESIDE, _BELOW = 46, 6  # columns before the explanation of an option, in a wide and in a narrow window


def program_help(commands: Mapping[str, type[Any]], width: int) -> str:
    """The text of `embody --help`: a line for each command."""
    lines = [
        *("usage: embody COMMAND ...", "", "Train agents inside a learned world model (Dreamer 4).", "", "COMMAND"),
        *_table(((name, _paragraphs(kind)[0]) for name, kind in commands.items()), width),
        *(
            "",
            *textwrap.wrap(
                "`embody COMMAND --help` describes a command, `embody --version` prints the version.", width
            ),
        ),
    ]
    return "\n".join(lines)


def command_help(name: str, default: Any, arguments: Sequence[str], *, everything: bool, width: int) -> str:
    """The text of `embody NAME --help`, or of `--help-all` where `everything` is true.

    `default`: the command, with the default values that help shows; `arguments`: what else was typed behind NAME.
    """
    kind = type(default)
    summary, *more = _paragraphs(kind)
    stage = stage_named(arguments[0]) if name == "train" and arguments and not arguments[0].startswith("-") else None
    if stage is not None:
        summary = STAGES[stage].summary
    words = " ".join(filter(None, ("embody", name, stage)))
    asked = [field for field in positionals(kind) if stage is None or field != "stage"]
    usage = " ".join(["usage:", words, *(_metavar(kind, field) for field in asked), "[--OPTION VALUE ...]"])
    lines = [usage, *itertools.chain.from_iterable(["", *textwrap.wrap(text, width)] for text in (summary, *more))]
    for field in asked:
        lines += ["", *_argument(field, default, width)]
    known = options(default)
    shown = _all_groups(known) if everything else _shown_groups(SHOWN.get(_topic(name, stage), {}), known)
    for title, group in shown.items():
        lines += ["", *textwrap.wrap(title, width), *_option_lines(group, width)]
    if any("[P" in line for line in lines):
        lines += ["", "[P: ...] is the value in the paper."]
    if not everything and len(known) > sum(map(len, shown.values())):
        lines += ["", *textwrap.wrap(f"`{words} --help-all` shows all {len(known)} options.", width)]
    return "\n".join(lines)


def _topic(name: str, stage: str | None) -> str:
    """The key of `SHOWN`: a control has the options of its phase."""
    return name if stage is None else f"{name} {STAGES[stage].phase}"


# --- arguments ------------------------------------------------------------------------------------------------------


def _argument(field: str, default: Any, width: int) -> Iterator[str]:
    """An argument without a name: its explanation, and a line for each of its choices."""
    first = getattr(default, field)
    yield field.upper() + (f" (default: {first})" if field == "preset" else "")
    text = field_docs(type(default)).get(field, "")
    yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")
    if field in _CHOICES:
        yield from _table(sorted(_CHOICES[field](), key=lambda row: row[0] != first), width)


def _metavar(kind: type, field: str) -> str:
    default = next(one.default for one in dataclasses.fields(kind) if one.name == field)
    if isinstance(default, tuple):
        return f"{field.upper()} ..."
    return field.upper() if default is dataclasses.MISSING else f"[{field.upper()}]"


def _presets() -> Iterator[tuple[str, str]]:
    for one in games().values():
        for name, make in one.presets.items():
            yield name, _paragraphs(make)[0]


_CHOICES: Mapping[str, Callable[[], Iterable[tuple[str, str]]]] = {
    "stage": lambda: ((name, spec.summary) for name, spec in STAGES.items()),
    "preset": _presets,
    "kind": lambda: ((name, kind.summary) for name, kind in recording_kinds().items()),
}


# --- options --------------------------------------------------------------------------------------------------------


def _shown_groups(titles: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, list[Option]]:
    """The command's own options, and those of the config that `titles` name."""
    groups = {OPTIONS: [option for option in known.values() if option.group == OPTIONS]}
    for title, names in titles.items():
        groups[title] = [_joined(name, fnmatch.filter(known, name), known) for name in names.split()]
    return {title: group for title, group in groups.items() if group}


def _joined(name: str, paths: Sequence[str], known: Mapping[str, Option]) -> Option:
    """One line of help for the option `name`, or for those of all stages if it begins with `train_*`."""
    first = known[paths[0]]
    if "*" not in name:
        return first
    defaults = ", ".join(known[path].default for path in paths)
    typed = first.name.replace(paths[0].partition(".")[0].replace("_", "-"), "train-STAGE", 1)
    return dataclasses.replace(first, name=typed, default=defaults)


def _all_groups(known: Mapping[str, Option]) -> dict[str, list[Option]]:
    """Every option, by the part of the config that it belongs to."""
    groups: dict[str, list[Option]] = {}
    for option in known.values():
        groups.setdefault(option.group, []).append(option)
    return groups


def _option_lines(group: Iterable[Option], width: int) -> list[str]:
    rows = []
    for option in group:
        typed = ", ".join(filter(None, (option.name, option.negative if option.default else "")))
        default = f" (default: {option.default})" if option.default else ""
        rows.append((f"{typed} {option.values}".rstrip(), option.help + default))
    return _table(rows, width, _BESIDE if width >= _WIDE else _BELOW)


def _table(rows: Iterable[tuple[str, str]], width: int, column: int = 0) -> list[str]:
    """Rows of what is typed and its explanation, which begins at `column` (0: behind the longest)."""
    rows, lines = list(rows), []
    column = column or 4 + max(len(typed) for typed, _ in rows)
    for typed, text in rows:
        first, *more = textwrap.wrap(text, width - column) or [""]
        if len(typed) + 4 > column:
            lines += [f"  {typed}", " " * column + first]
        else:
            lines.append(f"  {typed:{column - 2}}{first}".rstrip())
        lines += [" " * column + line for line in more]
    return lines


def _paragraphs(thing: Any) -> list[str]:
    """The paragraphs of a docstring, each in one line; an empty one if there is none."""
    return [" ".join(text.split()) for text in (inspect.getdoc(thing) or "").split("\n\n")]
