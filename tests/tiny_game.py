"""A game of another package: a white square is to be moved onto a grey one."""

from typing import Any

import numpy as np

from embody.config import (
    ActionSpec,
    AgentConfig,
    CollectConfig,
    Config,
    DynamicsConfig,
    EnvConfig,
    EvaluationConfig,
    ImaginationConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.games import Demonstrator, Game, PixelEnv
from embody.games.evaluation import TaskTrials
from embody.games.trials import GameEvaluation
from embody.metrics.results_file import Results, lookup
from embody.metrics.sections import Section
from embody.metrics.tables import percent
from embody.metrics.targets import Target, at_bound

ACTION_NAMES = (("up", "down", "left", "right"),)
CELLS, CELL = 4, 4  # of a side; pixels
MOVES = np.array(((-1, 0), (1, 0), (0, -1), (0, 1)))  # rows and columns


class Square:
    """Frames uint8 [16, 16, 3]; the episode ends on the grey square, or after so many steps."""

    actions = len(MOVES)

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        cells = np.random.default_rng(seed).choice(CELLS**2, size=2, replace=False)
        self.place, self.goal = np.stack(np.divmod(cells, CELLS), axis=1)
        self.steps = 0
        return self._frame(), {"mission": "go there", "success": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + MOVES[int(np.asarray(action).item())], 0, CELLS - 1)
        self.steps += 1
        there = bool((self.place == self.goal).all())
        over = self.steps >= self.max_steps and not there
        return self._frame(), float(there), there, over, {"mission": "go there", "success": there}

    def _frame(self) -> np.ndarray:
        cells = np.zeros((CELLS, CELLS), np.uint8)
        cells[tuple(self.goal)], cells[tuple(self.place)] = 128, 255
        return np.repeat(cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[..., None], 3, axis=-1)


class Walker:
    """A demonstrator that moves along the rows, then along the columns."""

    def reset(self, env: Square) -> None:
        self._env = env

    def action(self, previous: int | None) -> int:
        row, column = self._env.goal - self._env.place
        return (0 if row < 0 else 1) if row else (2 if column < 0 else 3)


class OfPixels:
    """The share of white pixels, this game's own measure of frames."""

    def of_reconstructions(self, decoded: np.ndarray, real: np.ndarray) -> dict[str, Any]:
        return {"white_share": float((decoded > 200).mean())}

    def of_rollouts(self, rollouts: Any, steps: Any) -> dict[str, Any]:
        white = [float((rollouts.imagined[m] > 200).mean()) for m in steps]
        return {"white_share": white[0], "horizon": {"white_share": white}}


def sections(results: Results) -> list[Section]:
    share = lookup(results, "tokenizer.white_share")
    return [Section("White pixels", tables=((["measure", "value"], [["white pixels", percent(share)]]),))]


def make_env(config: EnvConfig, task: str) -> PixelEnv:
    return Square(config.max_steps[config.tasks.index(task)])


def make_demonstrator(task: str) -> Demonstrator:
    return Walker()


def square() -> Config:
    trunk = TransformerConfig(width=16, depth=2, heads=2, kv_heads=1, pattern="ST", mlp_width=24)
    stage = StageConfig(steps=2, batch=4, length=4)
    return Config(
        name="square",
        preset="square",
        device="cpu",
        precision="float32",
        env=EnvConfig("square", ("go",), (8,), height=16, width=16, actions=ActionSpec.of_names(ACTION_NAMES)),
        collect=CollectConfig(train_episodes=12, validation_episodes=6, workers=1),
        tokenizer=TokenizerConfig(patch=8, latents=4, channels=4, context=2, encoder=trunk, decoder=trunk),
        tokenizer_objective=TokenizerObjective(lpips="none"),
        dynamics=DynamicsConfig(tokens=4, channels=4, registers=2, context=8, trunk=trunk, k_max=16),
        agent=AgentConfig(tokens=1, hidden=8, distances=2, bins=11),
        imagination=ImaginationConfig(context=3, horizon=3),
        train_tokenizer=stage,
        train_dynamics=stage,
        train_agent=stage,
        train_imagination=stage,
        evaluation=EvaluationConfig(episodes=4, batch=4, rollouts=4, context=3, horizon=4),
    )


GAME = Game(
    name="square",
    presets={"square": square},
    tasks=("go",),
    action_names=ACTION_NAMES,
    vocabulary=("<pad>", "<unknown>", "go", "there"),
    keys={"ArrowUp": (0, 0), "ArrowDown": (0, 1), "ArrowLeft": (0, 2), "ArrowRight": (0, 3)},
    make_env=make_env,
    make_demonstrator=make_demonstrator,
    evaluation=lambda: GameEvaluation(
        trials=TaskTrials,
        one_task_a_dataset=True,
        frame_measures=lambda datasets: OfPixels(),
        drift=("white_share",),
        ablation={"white_share": "white"},
        targets=(Target("White", "tokenizer.white_share", percent, at_bound(0.0)),),
        sections=sections,
    ),
)
