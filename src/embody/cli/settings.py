"""The config that a command starts from."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from embody.cli.options import RECORDED
from embody.config import Config, check_name
from embody.errors import UserError
from embody.games import preset, simulator
from embody.run.folder import config_path, read_config

if TYPE_CHECKING:
    from embody.trainer import Trainer

__all__ = ["Preset", "Settings", "base_config", "cache_dir", "trainer", "with_full"]

Preset = tyro.conf.Positional[str]
Settings = Annotated[Config, tyro.conf.arg(name="")]


def base_config(arguments: Sequence[str]) -> Config:
    """The preset that the arguments name, or the config of the run that they name if it exists already."""
    for option, instead in RECORDED.values():
        if _value(arguments, option) is not None:
            raise UserError(f"{option}: {instead}")
    if arguments[:1] in (["import"], ["data relocate"], ["compare"]):  # of no run
        return Config()
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    place = 2 if words[:1] in (["train"], ["weights"]) else 1
    named = words[place] if len(words) > place else None
    elsewhere = _value(arguments, "--env")
    default = preset(named or (simulator(elsewhere)[0].preset if elsewhere else "minigrid"))
    default = dataclasses.replace(default, cache_dir=cache_dir(default.cache_dir))
    name, runs_dir = _value(arguments, "--name"), _value(arguments, "--runs-dir") or default.runs_dir
    if name is None:
        name = default.name
    check_name("--name", name)
    run_dir = Path(runs_dir) / name
    stored = read_config(run_dir)
    if stored is None:
        return default
    if named not in (None, stored.preset):
        raise UserError(f"{run_dir} began as the preset {stored.preset}, not {named}: use another --name")
    # The folder may have been moved or renamed.
    stored = dataclasses.replace(stored, name=name, runs_dir=runs_dir)
    _check_paths(stored, default, arguments)
    # How much is evaluated is asked for anew each time.
    return with_full(stored, False)


def _check_paths(stored: Config, default: Config, arguments: Sequence[str]) -> None:
    """A `UserError` names a path in a run's `stored` config that leads elsewhere, unless an argument names it again.

    The config may be another person's. Folders must be the default ones or inside the current folder, as must weights
    to begin with; datasets must be inside `data_dir`.
    """
    folders = {field: getattr(stored, field) for field in ("data_dir", "models_dir", "logs_dir", "cache_dir")}
    paths: list[tuple[str, Sequence[str], str]] = [
        (field, [path], ".") for field, path in folders.items() if path != getattr(default, field)
    ]
    paths.append(("data.sources", stored.data.sources, stored.data_dir))
    for stage in ("train_tokenizer", "train_dynamics", "train_agent", "train_imagination"):
        paths.append((f"{stage}.init_from", [getattr(stored, stage).init_from], "."))
    for field, found, folder in paths:
        option = f"--{field.replace('_', '-')}"
        for path in found:
            if not _is_inside(path, folder) and _value(arguments, option) is None:
                raise UserError(
                    f"{config_path(stored.run_dir)} has {field} {path}, which is outside of {os.path.abspath(folder)}:"
                    f" if you trust it, name it again: {option} {shlex.quote(path)}"
                )


def _is_inside(path: str, folder: str) -> bool:
    """Whether `path`, relative to `folder`, is in that folder, or is the folder itself."""
    inner = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    return "\0" not in path and Path(inner).is_relative_to(os.path.abspath(folder))


def cache_dir(default: str = Config.cache_dir) -> str:
    """The folder that XDG_CACHE_HOME gives for weights that others trained, or `default`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return str(cache / "embody") if cache.is_absolute() else default


def trainer(config: Config) -> "Trainer":
    """The trainer of a run. torch is imported here, when a command starts, and not while its words are read."""
    from embody.trainer import Trainer

    return Trainer(config=config)


def with_full(config: Config, full: bool) -> Config:
    """`config` whose evaluation is the full one, or not."""
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, full=full))


def _value(arguments: Sequence[str], name: str) -> str | None:
    """The value of the option `name` where it is given last; "" if it has none, None if it is not given."""
    found = None
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.replace("_", "-") == name:
            found = value if equals else next(iter(arguments[place + 1 :]), "")
    return found
