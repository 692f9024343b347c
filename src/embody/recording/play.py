"""Playing the episodes to record. An episode, and its share of random actions, depend on its index only."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from embody.config import Config
from embody.data.episode import EVERY_TASK, Episode
from embody.errors import UserError
from embody.games import Demonstrator, DemonstratorLost, PixelEnv, environment_seeds, game, make_env

__all__ = ["play_episodes"]

Split = Literal["train", "validation"]


def play_episodes(config: Config, task: str, split: Split, first: int, count: int) -> list[Episode]:
    """Play episodes `first` to `first + count` of a split; each depends on (config, task, split, its index) only."""
    played, env = game(config.env.game), make_env(config.env, task)
    if played.make_demonstrator is None:
        raise UserError(f"{task} cannot be collected: {played.name} has no demonstrator; import recordings")
    expert, off_task = played.make_demonstrator(task), played.make_off_task_demonstrator(task)
    episodes = []
    for index in range(first, first + count):
        if off_task is not None and _draw(config, task, split, index, 2) < config.collect.off_task_fraction:
            episodes.append(_play(config, env, off_task, "off_task", task, split, index))
        else:
            episodes.append(_play(config, env, expert, "expert", task, split, index))
    return episodes


def _play(
    config: Config, env: PixelEnv, expert: Demonstrator, source: str, task: str, split: Split, index: int
) -> Episode:
    rng = _rng(config, task, split, index)
    noise = _draw_noise(config, rng)
    seed = environment_seeds(config.collect.seed, task, split)[index]

    frame, info = env.reset(seed=seed)
    choose = _player(env, expert, noise, rng)
    frames, actions, rewards, infos = [frame], [0], [0.0], [info]
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(choose(actions[-1] if len(actions) > 1 else None))
        frame, reward, terminated, truncated, info = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        infos.append({name: info[name] for name in ("success", "events") if name in info})
    is_terminal = np.zeros(len(frames), bool)
    is_terminal[-1] = terminated
    has_events = bool(game(config.env.game).achievements)
    episode = Episode(
        frames=np.stack(frames),
        actions=np.array(actions, np.int64)[:, None],
        rewards=np.array(rewards, np.float32),
        is_terminal=is_terminal,
        task=EVERY_TASK if has_events else task,
        label=infos[0]["mission"],
        source="random" if noise == 1 else source,
        noise=noise,
        seed=seed,
        success=any(info["success"] for info in infos),
        events=np.stack([info["events"] for info in infos]) if has_events else None,
    )
    unlabelled = _draw(config, task, split, index, 1) < config.collect.unlabelled_fraction
    return _unlabelled(episode) if unlabelled else episode


def _rng(config: Config, task: str, split: Split, *place: int) -> np.random.Generator:
    split_number = ("train", "validation").index(split)
    return np.random.default_rng((config.collect.seed, zlib.crc32(task.encode()), split_number, *place))


def _draw(config: Config, task: str, split: Split, index: int, purpose: int) -> float:
    """A number in [0, 1) for one `purpose`, independent of the episode's other random numbers."""
    return float(_rng(config, task, split, index, purpose).random())


def _unlabelled(episode: Episode) -> Episode:
    """The episode as a plain video: without actions, rewards, terminals and events."""
    zeros = {name: np.zeros_like(getattr(episode, name)) for name in ("actions", "rewards", "is_terminal")}
    return replace(episode, **zeros, events=None, labelled=False)


def _draw_noise(config: Config, rng: np.random.Generator) -> float:
    """The probability that an action of this episode is random; 1 for `collect.random_fraction` of the episodes."""
    if rng.random() < config.collect.random_fraction:
        return 1.0
    return float(rng.choice(config.collect.noise_levels))


def _player(env: PixelEnv, expert: Demonstrator, noise: float, rng: np.random.Generator) -> Callable[[int | None], int]:
    """The episode's policy: from the previous action to the next. Once the expert is lost, all actions are random.

    Such an episode is kept: without it the demonstrations would seem better than they are.
    """
    lost = noise == 1
    if not lost:
        expert.reset(env)

    def choose(previous: int | None) -> int:
        nonlocal lost
        if not lost:
            try:
                # Called at every step, because the expert tracks the actions that are really played.
                suggested = expert.action(previous)
            except DemonstratorLost:
                lost = True
        return int(rng.integers(env.actions)) if lost or rng.random() < noise else suggested

    return choose
