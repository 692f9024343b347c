"""The registration of MiniGrid."""

from typing import TYPE_CHECKING

from embody.config import EnvConfig
from embody.games.environment import PixelEnv
from embody.games.minigrid.demonstrator import make_demonstrator, make_off_task_demonstrator
from embody.games.minigrid.presets import minigrid
from embody.games.minigrid.tasks import ACTION_NAMES, TASKS, VOCABULARY
from embody.games.registry import Game

if TYPE_CHECKING:
    from embody.games.trials import GameEvaluation

__all__ = ["GAME"]


def _make_env(config: EnvConfig, task: str) -> PixelEnv:
    from embody.games.minigrid.environment import MiniGridPixels

    return MiniGridPixels(task, config.max_steps[config.tasks.index(task)], config.height, config.width)


def _evaluation() -> "GameEvaluation":
    from embody.games.minigrid.evaluation import EVALUATION

    return EVALUATION


GAME = Game(
    name="minigrid",
    presets={"minigrid": minigrid},
    tasks=TASKS,
    action_names=ACTION_NAMES,
    vocabulary=VOCABULARY,
    keys={"ArrowLeft": (0, 0), "ArrowRight": (0, 1), "ArrowUp": (0, 2), "p": (0, 3), "d": (0, 4), " ": (0, 5)},
    make_env=_make_env,
    make_demonstrator=make_demonstrator,
    make_off_task_demonstrator=make_off_task_demonstrator,
    evaluation=_evaluation,
)
