"""Plays one recorded episode: of what quality, and every step of it, follow from its place in the dataset."""

import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from embody.config import Config
from embody.data.episodes import Episode
from embody.envs import Expert, ExpertLost, MiniGridPixels, environment_seeds, make_env, make_expert

__all__ = ["play_episodes"]

Split = Literal["train", "validation"]


def play_episodes(config: Config, task: str, split: Split, first: int, count: int) -> list[Episode]:
    """Episodes `first` .. `first + count - 1` of a split; each depends on (config, task, split, its index) alone."""
    env, expert = make_env(config.env, task), make_expert(task)
    return [_play(config, env, expert, task, split, index) for index in range(first, first + count)]


def _play(config: Config, env: MiniGridPixels, expert: Expert, task: str, split: Split, index: int) -> Episode:
    split_number = ("train", "validation").index(split)
    rng = np.random.default_rng((config.collect.seed, zlib.crc32(task.encode()), split_number, index))
    noise = _draw_noise(config, rng)
    seed = environment_seeds(config.collect.seed, task, split)[index]

    frame, info = env.reset(seed=seed)
    choose = _player(env, expert, noise, rng)
    frames, actions, rewards = [frame], [0], [0.0]
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(choose(actions[-1] if len(actions) > 1 else None))
        frame, reward, terminated, truncated, info = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
    is_terminal = np.zeros(len(frames), bool)
    is_terminal[-1] = terminated
    return Episode(
        frames=np.stack(frames),
        actions=np.array(actions, np.int64)[:, None],
        rewards=np.array(rewards, np.float32),
        is_terminal=is_terminal,
        task=task,
        label=info["mission"],
        source="random" if noise == 1 else "expert",
        noise=noise,
        seed=seed,
        success=info["success"],
    )


def _draw_noise(config: Config, rng: np.random.Generator) -> float:
    """How often this episode's actions are random; 1 for the share that is played at random."""
    if rng.random() < config.collect.random_fraction:
        return 1.0
    return float(rng.choice(config.collect.noise_levels))


def _player(env: MiniGridPixels, expert: Expert, noise: float, rng: np.random.Generator) -> Callable[[int | None], int]:
    """The episode's policy: previous action to next. An expert that is lost leaves the rest to chance.

    Such an episode is kept: leaving it out would make the demonstrations look better than they are.
    """
    lost = noise == 1
    if not lost:
        expert.reset(env)

    def choose(previous: int | None) -> int:
        nonlocal lost
        if not lost:
            try:
                suggested = expert.action(previous)  # asked at every step: the bot follows what is really played
            except ExpertLost:
                lost = True
        return int(rng.integers(env.actions)) if lost or rng.random() < noise else suggested

    return choose
