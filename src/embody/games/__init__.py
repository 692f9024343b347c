"""The games, one folder each, and what they share: registry, environments stepped together, seeds, success rates."""

from embody.games.environment import Demonstrator, DemonstratorLost, PixelEnv
from embody.games.lockstep import LockstepEnvs
from embody.games.registry import (
    Game,
    Recordings,
    Simulated,
    Simulator,
    game,
    games,
    make_env,
    open_recordings,
    preset,
    preset_names,
    simulator,
    source_of,
    stored_config,
)
from embody.games.seeds import environment_seeds, evaluation_seeds

__all__ = [
    "Demonstrator",
    "DemonstratorLost",
    "Game",
    "LockstepEnvs",
    "PixelEnv",
    "Recordings",
    "Simulated",
    "Simulator",
    "environment_seeds",
    "evaluation_seeds",
    "game",
    "games",
    "make_env",
    "open_recordings",
    "preset",
    "preset_names",
    "simulator",
    "source_of",
    "stored_config",
]
