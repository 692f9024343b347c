"""The registry of games: the folders beside this file, and games that other packages provide.

A game is a subpackage with a module `game` whose `GAME` is a `Game`. Another package provides one by an entry point
in the group `embody.games`. Only the `game` modules are imported here; each game imports its other modules when used.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embody.config import ActionSpec, Config, EnvConfig, Fit, Schedule, from_dict
from embody.errors import UserError, did_you_mean, one_line
from embody.games.environment import Demonstrator, PixelEnv

if TYPE_CHECKING:
    import torch

    from embody.data.sources.source import Source
    from embody.games.trials import GameEvaluation
    from embody.logger_manager import LoggerManager

__all__ = [
    "Game",
    "Recordings",
    "Simulated",
    "Simulator",
    "game",
    "games",
    "make_env",
    "open_recordings",
    "preset",
    "preset_names",
    "recording_kinds",
    "simulator",
    "source_of",
    "stored_config",
]

_GROUP = "embody.games"  # the group of entry points

Simulated = Literal["imagination", "cloning", "random"]  # who plays in a simulator


@dataclass(frozen=True)
class Simulator:
    """Environments of a game that run in other processes and are reached through servers."""

    # Plays `evaluation.episodes` episodes and returns their summary. Its arguments: config, name of the environment,
    # addresses of the servers (host:port), policy, logger, command line, device of the models.
    play: Callable[[Config, str, Sequence[str], Simulated, "LoggerManager", str, "torch.device"], Mapping[str, Any]]
    preset: str  # the preset of `embody evaluate --env KIND:NAME` if the command names none


@dataclass(frozen=True)
class Recordings:
    """A kind of recordings that `embody import` reads."""

    summary: str  # one line, for the command line
    open: Callable[[Path, str | None], "Source"]  # arguments: a folder or index file, and the name of an environment
    has_environments: bool = False  # whether a folder may have recordings of several environments


def _default_evaluation() -> "GameEvaluation":
    from embody.games.trials import GameEvaluation

    return GameEvaluation()


@dataclass(frozen=True)
class Game:
    """Everything that embody needs of a game. Only the name is required; without `make_env` it has recordings only."""

    name: str
    presets: Mapping[str, Callable[[], Config]] = field(default_factory=dict)  # name -> a function that makes it
    tasks: tuple[str, ...] = ()  # the tasks of `make_env`
    action_names: tuple[tuple[str, ...], ...] = ()  # for each action factor, the names of its choices
    vocabulary: tuple[str, ...] = ()  # every word of the missions or labels, after "<pad>" and "<unknown>"
    achievements: tuple[str, ...] = ()  # [P]: the achievements whose events its recordings have
    labels: tuple[str, ...] = ()  # [P]: the achievements in words
    # For a person who plays: the name of a key in the browser -> the action factor and its choice.
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    make_env: Callable[[EnvConfig, str], PixelEnv] | None = None  # the environment of a task
    make_demonstrator: Callable[[str], Demonstrator] | None = None  # the expert of a task
    # An expert that pursues another goal than the task's; None if the task allows no other goal.
    make_off_task_demonstrator: Callable[[str], Demonstrator | None] = lambda task: None
    recordings: Mapping[str, Recordings] = field(default_factory=dict)  # the kinds of `embody import KIND`
    # Opens an object that a trainer was given as data, such as that of `minerl.data.make`, as recordings with frames
    # of the given (height, width); None if the object does not belong to this game.
    source_of: Callable[[object, tuple[int, int]], "Source | None"] = lambda data, frame: None
    simulators: Mapping[str, Simulator] = field(default_factory=dict)  # the kinds of `embody evaluate --env KIND:NAME`
    evaluation: Callable[[], "GameEvaluation"] = _default_evaluation

    @property
    def actions(self) -> ActionSpec | None:
        """The environment's actions; None if they have no names, and then only the presets define them."""
        return ActionSpec.of_names(self.action_names) if self.action_names else None


def games() -> Mapping[str, Game]:
    """All games by name, those of this package first. A `UserError` if two games have the same name."""
    return _games()


def game(name: str) -> Game:
    """The game called `name`; "none" is for data without a game. A `UserError` lists the known games."""
    if not isinstance(name, str):
        raise UserError(f"a game's name must be text, got {one_line(repr(name), 60)}")
    if name == "none":
        return Game("none")
    if name not in games():
        raise UserError(
            f"unknown game {name!r}{did_you_mean(name, games())}: choose one of {', '.join((*games(), 'none'))}"
        )
    return games()[name]


@cache
def _games() -> dict[str, Game]:
    package = importlib.import_module("embody.games")
    modules = [
        f"{package.__name__}.{found.name}.game" for found in pkgutil.iter_modules(package.__path__) if found.ispkg
    ]
    known = [importlib.import_module(module).GAME for module in modules if importlib.util.find_spec(module)]
    known += [point.load() for point in entry_points(group=_GROUP)]
    by_name: dict[str, Game] = {}
    for one in known:
        if one.name in (*by_name, "none"):
            raise UserError(f"two games are called {one.name!r}: uninstall one of the packages that provide them")
        by_name[one.name] = one
    return by_name


def make_env(config: EnvConfig, task: str) -> PixelEnv:
    """The environment of `task` with the config's step limit and frame size.

    Raises a `UserError` if the game has no environment, or if the task or the actions do not fit the config.
    """
    if not isinstance(config, EnvConfig):
        raise UserError(
            f"make_env needs the env of a config, such as preset('minigrid').env, got {one_line(repr(config), 60)}"
        )
    played = game(config.game)
    if played.make_env is None:
        raise UserError(
            f"env.game {config.game} has no environment, so nothing can be collected: import recordings with"
            " `embody import`"
        )
    if task not in played.tasks:
        raise UserError(f"unknown task {task!r}: choose from {', '.join(played.tasks)}")
    if task not in config.tasks:
        raise UserError(f"task {task!r} is not in env.tasks, which has {', '.join(config.tasks)}")
    own = played.actions
    if own is not None and config.actions != own:  # for example the actions of recordings, which the run adopted
        raise UserError(f"env.actions: {config.game} has sizes {own.sizes}, got {config.actions.sizes}")
    return played.make_env(config, task)


# --- presets --------------------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """The names of the presets of all games."""
    return [name for one in games().values() for name in one.presets]


def preset(name: str) -> Config:
    """The preset called `name`; a `UserError` lists the known presets."""
    if not isinstance(name, str):
        raise UserError(f"a preset's name must be text, got {one_line(repr(name), 60)}")
    for one in games().values():
        if name in one.presets:
            return one.presets[name]()
    raise UserError(
        f"unknown preset {name!r}{did_you_mean(name, preset_names())}: choose one of {', '.join(preset_names())}"
    )


def stored_config(values: Mapping[str, Any]) -> Config:
    """The config that `to_dict` turned into `values`; its schedule has the type of its preset's schedule."""
    kind = type(preset(str(values.get("preset", Config.preset))).schedule)
    return from_dict(Config, values, {Schedule: kind})


# --- simulators -----------------------------------------------------------------------------------------------------


def simulator(environment: str) -> tuple[Simulator, str]:
    """The simulator and the environment's name in `KIND:NAME`; a `UserError` lists the kinds."""
    kind, _, name = environment.partition(":")
    for one in games().values():
        if kind in one.simulators and name:
            return one.simulators[kind], name
    kinds = ", ".join(f"{kind}:NAME" for one in games().values() for kind in one.simulators)
    raise UserError(f"--env {environment}: expected {kinds}, such as minerl:MineRLObtainDiamond-v0")


# --- recordings -----------------------------------------------------------------------------------------------------


def _videos(folder: Path, environment: str | None) -> "Source":
    from embody.data.sources.videos import VideoSource

    return VideoSource(folder)


def recording_kinds() -> Mapping[str, Recordings]:
    """The kinds of recordings that `embody import` reads: plain videos, and those of all games."""
    return {"videos": Recordings("Plain videos without actions.", _videos)} | {
        kind: found for one in games().values() for kind, found in one.recordings.items()
    }


def open_recordings(
    kind: str, folder: Path, environment: str | None = None, *, fit: Fit | None = None, fps: int | None = None
) -> "Source":
    """The recordings in `folder`, those of `environment` if it has several.

    `fit` and `fps` replace the source's own settings of these names. A `UserError` lists the kinds, or names a setting
    that the kind does not have.
    """
    kinds = recording_kinds()
    if kind not in kinds:
        raise UserError(f"unknown recordings {kind!r}{did_you_mean(kind, kinds)}: choose one of {', '.join(kinds)}")
    if environment is not None and not kinds[kind].has_environments:
        several = ", ".join(name for name, found in kinds.items() if found.has_environments)
        raise UserError(f"--env {environment}: {kind} recordings have no environments, only those of {several} do")
    source: Any = kinds[kind].open(folder, environment)
    settings = {name: value for name, value in (("fit", fit), ("fps", fps)) if value is not None}
    own = {one.name for one in fields(source)} if is_dataclass(source) else set()
    for name, value in settings.items():
        if name not in own:
            raise UserError(f"--{name} {value}: {kind} recordings have no such setting, their format says it")
    return replace(source, **settings) if settings else source


def source_of(data: object, frame: tuple[int, int]) -> "Source":
    """Open `data`, an object that belongs to one of the games, as recordings with frames of that (height, width)."""
    for one in games().values():
        if (source := one.source_of(data, frame)) is not None:
            return source
    raise UserError(
        f"data is a {type(data).__name__}, which no game can read: give one or more datasets (`open_dataset`)"
    )
