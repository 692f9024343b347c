"""The options that the fields of a dataclass are: their names, values, defaults and sentences of help."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from embody.config import Config, EvaluationConfig, ImaginationConfig
from embody.errors import UserError, did_you_mean

__all__ = ["OPTIONS", "RECORDED", "SETTINGS", "Option", "check_options", "field_docs", "options", "positionals"]

# Fields that a run records and no option chooses, and what does.
RECORDED: Mapping[tuple[Any, str], tuple[str, str]] = {
    (Config, "preset"): ("--preset", "name the preset without it, as in `embody train dynamics crafter_small`"),
    (EvaluationConfig, "full"): ("--evaluation.full", "ask for it with --full"),
    (ImaginationConfig, "shuffle_rewards"): (
        "--imagination.shuffle-rewards",
        "the control with shuffled rewards is a stage of its own: `embody train shuffled_rewards`",
    ),
}

OPTIONS = "Options"  # the group of a command's own options

SETTINGS = ConstructorRegistry()  # how tyro makes a `Config`
_ASKING: set[Any] = set()  # parts of the config for which tyro's own rule is being asked
_POSITIONAL = typing.get_args(tyro.conf.Positional[str])[1]
_KINDS: Mapping[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


@SETTINGS.struct_rule
def _options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A part of the config as tyro has it, without options for the fields that are only recorded."""
    recorded = {name: getattr(info.default, name) for kind, name in RECORDED if kind is info.type}
    if not recorded or info.type in _ASKING:
        return None
    _ASKING.add(info.type)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _ASKING.remove(info.type)
    assert isinstance(spec, StructConstructorSpec)
    return StructConstructorSpec(
        instantiate=functools.partial(spec.instantiate, **recorded),
        fields=tuple(field for field in spec.fields if field.name not in recorded),
    )


@dataclass(frozen=True)
class Option:
    """One option as help shows it."""

    name: str
    """As it is typed, such as `--train-agent.lr`."""
    negative: str
    """What turns a flag off, such as `--no-compile`; empty for any other option."""
    values: str
    """What stands behind it, such as `INT`; empty for a flag."""
    help: str
    """Its sentences."""
    default: str
    """Its default value, empty where there is none."""
    group: str
    """The title of the group that it stands in where all options are shown."""


def options(part: Any, path: str = "", group: str = OPTIONS) -> dict[str, Option]:
    """The options of a command and of its config, by the path of their field, such as `train_agent.lr`.

    Fields of the config have no prefix; positional arguments are no options.
    """
    found: dict[str, Option] = {}
    hints, docs = typing.get_type_hints(type(part)), field_docs(type(part))
    for field in dataclasses.fields(part):
        value, here = getattr(part, field.name), f"{path}{field.name}"
        if (type(part), field.name) in RECORDED or field.name in positionals(type(part)):
            continue
        if dataclasses.is_dataclass(value):
            if isinstance(value, Config):
                found |= options(value, "", "Run")
            else:
                what = (inspect.getdoc(type(value)) or "").partition("\n\n")[0]
                found |= options(value, f"{here}.", f"{_typed('', here)}: {' '.join(what.split())}")
            continue
        flag = hints[field.name] is bool
        found[here] = Option(
            name=_typed(path, field.name),
            negative=_typed(path, f"no_{field.name}") if flag else "",
            values="" if flag else _values(hints[field.name]),
            help=docs.get(field.name, ""),
            default=_default(value),
            group=group,
        )
    return found


def positionals(kind: type) -> tuple[str, ...]:
    """The fields of a command that are arguments without a name, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(name for name, hint in hints.items() if _POSITIONAL in getattr(hint, "__metadata__", ()))


def check_options(arguments: Sequence[str], known: Mapping[str, Option], command: str) -> None:
    """A `UserError` names the first of the `arguments` that is an unknown option, and the nearest known one."""
    names = [name for option in known.values() for name in (option.name, option.negative) if name]
    accepted = {name.replace("_", "-") for name in names}
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and name not in accepted:
            raise UserError(
                f"unknown setting {argument.partition('=')[0]}{did_you_mean(name, names)}:"
                f" `embody {command} --help-all` lists all"
            )


def field_docs(kind: type) -> Mapping[str, str]:
    """The docstrings that stand under the fields of a dataclass, by name, each in one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for pair in itertools.pairwise(tree.body):
        match pair:
            case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                docs[name] = " ".join(text.split())
    return docs


def _typed(path: str, name: str) -> str:
    words = name.rstrip("_")  # tyro keeps the underscore of `lambda_`
    return f"--{path}{words}".replace("_", "-") + name.removeprefix(words)


def _values(hint: Any) -> str:
    """How the values of a type are written in help."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if origin is tuple:
        return f"{_values(inner[0])} ..." if inner[-1] is ... else " ".join(map(_values, inner))
    if origin in (types.UnionType, typing.Union):  # the latter if it has a Literal
        return _values(inner[0])
    return _KINDS[hint]


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, tuple):
        return " ".join(map(_default, value))
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
