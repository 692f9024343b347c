"""The config that a command starts from, and which of its settings are options."""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from embody.config import Config, EvaluationConfig, ImaginationConfig
from embody.errors import UserError
from embody.games import preset, simulator
from embody.run.folder import read_config

__all__ = ["SETTINGS", "Command", "Preset", "Settings", "base_config", "named_first", "with_full"]

T = TypeVar("T")

Command = Callable[..., Callable[[], object]]  # from what the arguments say to what is then to be done
Preset = tyro.conf.Positional[str]
Settings = Annotated[Config, tyro.conf.arg(name="")]

SETTINGS = ConstructorRegistry()  # how tyro makes a `Config`

# Fields that a run records and no option chooses, and what does.
_RECORDED: Mapping[tuple[Any, str], tuple[str, str]] = {
    (Config, "preset"): ("--preset", "name the preset without it, as in `embody train dynamics crafter_small`"),
    (EvaluationConfig, "full"): ("--evaluation.full", "ask for it with --full"),
    (ImaginationConfig, "shuffle_rewards"): (
        "--imagination.shuffle-rewards",
        "the control with shuffled rewards is a stage of its own: `embody train shuffled_rewards`",
    ),
}


_ASKING: set[Any] = set()  # parts of the config for which tyro's own rule is being asked


@SETTINGS.struct_rule
def _options(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A part of the config as tyro has it, without options for the fields that are only recorded."""
    recorded = {name: getattr(info.default, name) for kind, name in _RECORDED if kind is info.type}
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


def base_config(arguments: Sequence[str]) -> Config:
    """The preset that the arguments name, or the config of the run that they name if it exists already."""
    for option, instead in _RECORDED.values():
        if _option(arguments, option) is not None:
            raise UserError(f"{option}: {instead}")
    if arguments[:1] in (["import"], ["compare"]):  # of no run
        return Config()
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    place = 2 if words[:1] in (["train"], ["weights"]) else 1
    named = words[place] if len(words) > place else None
    elsewhere = _option(arguments, "--env")
    default = preset(named or (simulator(elsewhere)[0].preset if elsewhere else "minigrid"))
    if (cache := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        default = dataclasses.replace(default, cache_dir=str(cache / "embody"))
    name = _option(arguments, "--name") or default.name
    run_dir = Path(_option(arguments, "--runs-dir") or default.runs_dir) / name
    stored = read_config(run_dir)
    if stored is None:
        return default
    if named not in (None, stored.preset):
        raise UserError(f"{run_dir} began as the preset {stored.preset}, not {named}: use another --name")
    # How much is evaluated is asked for anew each time.
    return with_full(stored, False)


def named_first(preset: str, command: Callable[..., T]) -> Callable[..., T]:
    """`command`, refusing a preset that stands where `base_config` did not look for it."""

    @functools.wraps(command)
    def checked(*arguments: Any, **options: Any) -> T:
        given = inspect.signature(command).bind(*arguments, **options).arguments.get("preset", preset)
        if given != preset:
            raise UserError(
                f"{given} stands behind an option: name the preset first, as in `embody run {preset} --seed 1`"
            )
        return command(*arguments, **options)

    return checked


def with_full(config: Config, full: bool) -> Config:
    """`config` whose evaluation is the full one, or not."""
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, full=full))


def _option(arguments: Sequence[str], name: str) -> str | None:
    """What stands behind the option `name`, "" if nothing does; None if it is not given."""
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.replace("_", "-") == name:
            return value if equals else next(iter(arguments[place + 1 :]), "")
    return None
