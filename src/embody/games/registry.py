"""The games that there are: the folders beside this file, and those that other packages bring.

A game is a package folder with a module `game` whose `GAME` is a `Game`; another package names its `Game` in an entry
point of the group `embody.games`. Nothing of a game is imported before it is asked for, but for its `game` module.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from embody.config import ActionSpec, Config, EnvConfig, Schedule, from_dict
from embody.errors import UserError, did_you_mean
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

_GROUP = "embody.games"  # of entry points

Simulated = Literal["imagination", "cloning", "random"]  # who plays in a simulator


@dataclass(frozen=True)
class Simulator:
    """An environment of a game that runs in other processes, behind servers."""

    # Plays `evaluation.episodes` episodes in the environment of that name, behind each of the servers (host:port), and
    # returns a summary: (config, name, servers, who plays, logger, command, device).
    play: Callable[[Config, str, Sequence[str], Simulated, "LoggerManager", str, "torch.device"], Mapping[str, Any]]
    preset: str  # that `embody evaluate --env KIND:NAME` begins with, where the command names none


@dataclass(frozen=True)
class Recordings:
    """A kind of recordings that `embody import` reads."""

    summary: str  # one line, for the command line
    open: Callable[[Path, str | None], "Source"]  # of a folder (or an index file), and which environment's
    has_environments: bool = False  # a folder may hold recordings of several


def _nothing_of_its_own() -> "GameEvaluation":
    from embody.games.trials import GameEvaluation

    return GameEvaluation()


@dataclass(frozen=True)
class Game:
    """What embody knows of a game. All but the name may be left out: such a game is data that nobody plays."""

    name: str
    presets: Mapping[str, Callable[[], Config]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # that `make_env` knows
    action_names: tuple[tuple[str, ...], ...] = ()  # of the choices of each factor
    vocabulary: tuple[str, ...] = ()  # every word of the missions or labels; "<pad>" and "<unknown>" first
    achievements: tuple[str, ...] = ()  # [P]; a recording of such a game has their events
    labels: tuple[str, ...] = ()  # [P]: what each asks for, in words
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of a player: key -> factor and choice
    make_env: Callable[[EnvConfig, str], PixelEnv] | None = None  # of a task; None: not played here
    make_demonstrator: Callable[[str], Demonstrator] | None = None  # of a task
    # One that plays as well, but for something else; None where the task allows nothing else.
    make_off_task_demonstrator: Callable[[str], Demonstrator | None] = lambda task: None
    recordings: Mapping[str, Recordings] = field(default_factory=dict)  # that `embody import KIND` reads
    # An object of the game's, such as `minerl.data.make` returns, as recordings with frames of that height and width;
    # None: it is none of the game's. A trainer takes such objects beside datasets.
    source_of: Callable[[object, tuple[int, int]], "Source | None"] = lambda data, frame: None
    simulators: Mapping[str, Simulator] = field(default_factory=dict)  # that `embody evaluate --env KIND:NAME` plays in
    evaluation: Callable[[], "GameEvaluation"] = _nothing_of_its_own

    @property
    def actions(self) -> ActionSpec | None:
        """Its environment's; None where they have no names: then its presets alone say them."""
        return ActionSpec.of_names(self.action_names) if self.action_names else None


def games() -> Mapping[str, Game]:
    """All games by name, this package's first. A `UserError` if two have one name."""
    return _games()


def game(name: str) -> Game:
    """The game `name`, "none" for data without a game; a `UserError` lists the known ones."""
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
            raise UserError(f"two games are called {one.name!r}: uninstall one of the packages that bring them")
        by_name[one.name] = one
    return by_name


def make_env(config: EnvConfig, task: str) -> PixelEnv:
    """The environment of `task` with its step limit; a `UserError` if the game or the config does not have it."""
    played = game(config.game)
    if played.make_env is None:
        raise UserError(
            f"env.game {config.game} has no environment here: nothing can be collected; bring recordings with"
            " `embody import`"
        )
    if task not in played.tasks:
        raise UserError(f"unknown task {task!r}: choose from {', '.join(played.tasks)}")
    if task not in config.tasks:
        raise UserError(f"task {task!r} is not in env.tasks, which has {', '.join(config.tasks)}")
    own = played.actions
    if own is not None and config.actions != own:  # such as those of recordings, which the run took over
        raise UserError(f"env.actions: {config.game} has sizes {own.sizes}, got {config.actions.sizes}")
    return played.make_env(config, task)


# --- presets --------------------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Of all games."""
    return [name for one in games().values() for name in one.presets]


def preset(name: str) -> Config:
    """The preset `name`; a `UserError` lists the known ones."""
    for one in games().values():
        if name in one.presets:
            return one.presets[name]()
    raise UserError(
        f"unknown preset {name!r}{did_you_mean(name, preset_names())}: choose one of {', '.join(preset_names())}"
    )


def stored_config(values: Mapping[str, Any]) -> Config:
    """The config that `to_dict` gave: its schedule is of the kind that its preset has."""
    kind = type(preset(str(values.get("preset", Config.preset))).schedule)
    return from_dict(Config, values, {Schedule: kind})


# --- simulators -----------------------------------------------------------------------------------------------------


def simulator(environment: str) -> tuple[Simulator, str]:
    """The simulator and the name that `KIND:NAME` says; a `UserError` lists the kinds."""
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
    """What `embody import` reads: plain videos, and the recordings of every game."""
    return {"videos": Recordings("Plain videos, whose actions nobody knows.", _videos)} | {
        kind: found for one in games().values() for kind, found in one.recordings.items()
    }


def open_recordings(kind: str, folder: Path, environment: str | None = None) -> "Source":
    """The recordings in `folder`; of those of several environments, `environment`'s. A `UserError` lists the kinds."""
    kinds = recording_kinds()
    if kind not in kinds:
        raise UserError(f"unknown recordings {kind!r}{did_you_mean(kind, kinds)}: choose one of {', '.join(kinds)}")
    if environment is not None and not kinds[kind].has_environments:
        several = ", ".join(name for name, found in kinds.items() if found.has_environments)
        raise UserError(f"--env {environment}: only recordings of {several} are of several environments, not {kind}")
    return kinds[kind].open(folder, environment)


def source_of(data: object, frame: tuple[int, int]) -> "Source":
    """`data`, an object that one of the games knows, as recordings with frames of that height and width."""
    for one in games().values():
        if (source := one.source_of(data, frame)) is not None:
            return source
    raise UserError(
        f"data is a {type(data).__name__}, which no game reads: give a dataset (`open_dataset`), or several"
    )
