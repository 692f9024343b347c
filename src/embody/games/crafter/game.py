"""The registration of Crafter."""

from typing import TYPE_CHECKING

from embody.config import EnvConfig
from embody.games.crafter.demonstrator import ACTION, CrafterExpert
from embody.games.crafter.presets import crafter, crafter_small
from embody.games.crafter.random_goals import RandomGoalExpert
from embody.games.crafter.tasks import ACHIEVEMENTS, ACTION_NAMES, LABELS, TASKS, VOCABULARY
from embody.games.environment import Demonstrator, PixelEnv
from embody.games.registry import Game

if TYPE_CHECKING:
    from embody.games.trials import GameEvaluation

__all__ = ["GAME"]

_KEYS = {  # the keys of the package's own program -> actions
    **{"a": "move_left", "d": "move_right", "w": "move_up", "s": "move_down", " ": "do", "Tab": "sleep"},
    **{"r": "place_stone", "t": "place_table", "f": "place_furnace", "p": "place_plant"},
    **{"1": "make_wood_pickaxe", "2": "make_stone_pickaxe", "3": "make_iron_pickaxe"},
    **{"4": "make_wood_sword", "5": "make_stone_sword", "6": "make_iron_sword"},
}


def _make_env(config: EnvConfig, task: str) -> PixelEnv:
    from embody.games.crafter.environment import CrafterPixels

    return CrafterPixels(config.max_steps[config.tasks.index(task)], config.height, config.width)


def _make_demonstrator(task: str) -> Demonstrator:
    return CrafterExpert()


def _make_off_task_demonstrator(task: str) -> Demonstrator:
    return RandomGoalExpert()


def _evaluation() -> "GameEvaluation":
    from embody.games.crafter.evaluation import EVALUATION

    return EVALUATION


GAME = Game(
    name="crafter",
    presets={"crafter_small": crafter_small, "crafter": crafter},
    tasks=TASKS,
    action_names=ACTION_NAMES,
    vocabulary=VOCABULARY,
    achievements=ACHIEVEMENTS,
    labels=LABELS,
    keys={key: (0, ACTION[name]) for key, name in _KEYS.items()},
    make_env=_make_env,
    make_demonstrator=_make_demonstrator,
    make_off_task_demonstrator=_make_off_task_demonstrator,
    evaluation=_evaluation,
)
