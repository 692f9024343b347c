"""embody: train agents inside a learned world model (Dreamer 4).

The names below are the public face; each is imported when it is first used, so `import embody` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embody.config import Config
    from embody.data import open_dataset
    from embody.errors import UserError
    from embody.games import Game, game, make_env, preset
    from embody.imagination import Dream, DreamEnv, Player
    from embody.trainer import Trainer

__all__ = [
    "Config",
    "Dream",
    "DreamEnv",
    "Game",
    "Player",
    "Trainer",
    "UserError",
    "game",
    "make_env",
    "open_dataset",
    "preset",
]

__version__ = "0.1.0"

_HOME = {
    "embody.config": ("Config",),
    "embody.data": ("open_dataset",),
    "embody.errors": ("UserError",),
    "embody.games": ("Game", "game", "make_env", "preset"),
    "embody.imagination": ("Dream", "DreamEnv", "Player"),
    "embody.trainer": ("Trainer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'embody' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
