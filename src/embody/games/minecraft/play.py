"""Evaluates a policy in Minecraft simulators: one episode in each simulator at a time; a stopped evaluation resumes.

Shapes: N episodes in parallel, A action factors, H W pixels.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from embody.config import Config, digest, to_dict
from embody.errors import UserError
from embody.games.minecraft.actions import VPT
from embody.games.minecraft.diamond import (
    DiamondEpisode,
    EpisodeLog,
    diamond_summary,
    diamond_table,
    write_diamond_page,
)
from embody.games.minecraft.schedule import ItemTracker, Scheduler, TaskSchedule, check_schedule
from embody.games.minecraft.simulator import MineRLEnv, SimulatorLost, SimulatorUnreachable
from embody.games.minecraft.tasks import ITEMS, task_label
from embody.games.policy import RandomPolicy, TaskPolicy
from embody.games.registry import Simulated
from embody.games.seeds import evaluation_seeds
from embody.imagination import Player
from embody.logger_manager import LoggerManager
from embody.metrics.results_file import write_results
from embody.model import load_tokenizer, load_world_and_agent
from embody.saving.tensors import tensors_hash

__all__ = ["connect", "evaluate_in_simulator", "play_diamond"]

_MAX_LOST_ROUNDS = 10  # the evaluation stops after so many consecutive rounds in which every episode was lost


def evaluate_in_simulator(
    config: Config,
    environment: str,
    servers: Sequence[str],
    policy: Simulated,
    logger: LoggerManager,
    command: str,
    device: torch.device,
) -> dict[str, Any]:
    """Play `evaluation.episodes` episodes of `policy` in MineRL's `environment`, one at a time on each of `servers`.

    The policy's models run on `device`. The run's folder receives `simulator/ENVIRONMENT-POLICY.jsonl` with the
    episodes, and `.json` and `.md` with the summary. Returns the `diamond_summary` with the recipe and the command. If
    an earlier call with the same recipe was stopped, its episodes are kept and only the missing ones are played.
    """
    path = config.run_dir / "simulator" / f"{environment}-{policy}.jsonl"
    with contextlib.ExitStack() as stack:
        envs = [stack.enter_context(contextlib.closing(env)) for env in connect(config, environment, servers)]
        player, settings = _player(config, policy, envs[0], device)
        recipe = {
            "environment": environment,
            "simulator": envs[0].simulator,
            "policy": policy,
            **settings,
            "schedule": to_dict(config.schedule),
            "seed": config.seed,
            "worlds": config.collect.seed,
        }
        log = EpisodeLog(path, recipe)
        seeds = evaluation_seeds(config, environment, config.evaluation.episodes)
        try:
            play_diamond(envs, seeds, player, _schedule(config), log, logger)
        finally:  # write the tables of the played episodes also if the evaluation was stopped
            made = {"command": command, "date": time.strftime("%Y-%m-%d")}
            summary = {**diamond_summary(log.episodes.values(), len(seeds)), "recipe": recipe, "made": made}
            write_results(path.with_suffix(".json"), summary)
            write_diamond_page(path.with_suffix(".md"), summary, log.episodes.values())
    logger.lines(diamond_table(summary))
    return summary


def connect(config: Config, environment: str, servers: Sequence[str]) -> list[MineRLEnv]:
    """Connect to the simulator of each of `servers` (`host:port`).

    Raises a `UserError` if the config is not Minecraft's, a server is named twice or none is, or the simulators differ.
    """
    env = config.env
    if env.game != "minecraft":
        raise UserError(f"{config.name} plays {env.game}, not Minecraft: name a preset or a run of Minecraft")
    if not servers or len(set(servers)) < len(servers):
        raise UserError("--server: name at least one server, and each only once, since a server has one simulator")
    steps = _schedule(config).episode_steps
    envs: list[MineRLEnv] = []
    try:
        for server in servers:
            envs.append(MineRLEnv(server, environment, height=env.height, width=env.width, max_steps=steps))
            if envs[-1].simulator != envs[0].simulator:
                raise UserError(f"{server} has {envs[-1].simulator}, {servers[0]} {envs[0].simulator}: make them equal")
    except BaseException:
        for opened in envs:
            opened.close()
        raise
    return envs


def _schedule(config: Config) -> TaskSchedule:
    """The config's schedule; a `UserError` if it is not one of Minecraft's or names an unknown task."""
    if not isinstance(config.schedule, TaskSchedule):
        raise UserError(f"{config.name} has no schedule of tasks: begin with one of Minecraft's presets")
    check_schedule(config.schedule)
    return config.schedule


def _player(
    config: Config, policy: Simulated, env: MineRLEnv, device: torch.device
) -> tuple[Callable[[int], TaskPolicy], dict[str, Any]]:
    """A function that makes the player of the episodes from a number on, and the settings that determine its play.

    The random policy plays in any action space. A `UserError` if another policy was trained with other actions than
    those of `env`.
    """
    space, own = env.space, config.env.actions
    if policy == "random":
        return lambda first: RandomPolicy(space.spec, np.random.default_rng([config.seed, first])), {}
    if space.spec != own:
        known = "vpt's" if own == VPT.spec else f"{len(own.sizes)} factors {own.sizes}"
        raise UserError(
            f"{env.environment} has the action space {space.name} ({len(space.spec.sizes)} factors), but {config.name}"
            f" was trained with another one ({known}): choose an environment with the actions of the policy"
        )
    tokenizer, _ = load_tokenizer(config.weights("tokenizer"))
    model, recipe = load_world_and_agent(config.weights("agent" if policy == "cloning" else policy))
    tokenizer.to(device)
    model.to(device)
    parts = tokenizer, model.dynamics, model.agent
    weights = digest([[tensors_hash(part.state_dict()), to_dict(part.config)] for part in parts])
    context, words = config.imagination.context, (recipe["vocabulary"], recipe.get("labels", ()))

    def player(first: int) -> TaskPolicy:
        seed = config.seed * 1_000_000 + first
        return Player(tokenizer, model, *words, context=context, sampling=config.sampling, seed=seed)

    return player, {"weights": weights, "context": context, **to_dict(config.sampling)}


# --- playing --------------------------------------------------------------------------------------------------------


class _RunningEpisode:
    """One episode in one simulator; `result` is None until it ends."""

    def __init__(self, env: MineRLEnv, number: int, seed: int, schedule: TaskSchedule) -> None:
        self.env, self.number, self.seed = env, number, seed
        self.scheduler = Scheduler(schedule)
        self.frame = np.zeros(env.observation_space.shape or (), np.uint8)
        self.steps, self.reward = 0, 0.0
        self.items: dict[str, int] = {}
        self.switches: list[str] = []
        self.result: DiamondEpisode | None = None
        self.unreachable: SimulatorUnreachable | None = None  # the episode could not begin and is not counted

    @property
    def label(self) -> str:
        return task_label(self.scheduler.task)

    def try_call(self, call: Callable[[], None]) -> None:
        """Run `call` unless the episode has ended; if it loses the simulator, this episode ends as "lost"."""
        if self.result is None:
            try:
                call()
            except SimulatorLost as lost:
                self._end("lost", str(lost))
            except SimulatorUnreachable as unreachable:
                self.unreachable = unreachable
                self._end("lost", str(unreachable))

    def begin(self) -> None:
        self.frame, info = self.env.reset_wait()
        self.tracker = ItemTracker(info["inventory"])

    def request_step(self, action: NDArray[np.int64]) -> None:
        self.action = self.env.space.dictionary(action)
        self.env.step_async(action)

    def finish_step(self) -> None:
        """Receive the result of the requested step and update items, task and end of the episode."""
        self.frame, reward, terminated, truncated, info = self.env.step_wait()
        self.steps += 1
        self.reward += reward
        self.tracker.update(info["inventory"], reward, self.action, info["gui"])
        for item in ITEMS:
            if self.tracker.obtained[item] and item not in self.items:
                self.items[item] = self.steps
        self.switches += map(str, self.scheduler.update(self.steps, self.tracker))
        if terminated or truncated:
            self._end("terminated" if terminated else "truncated")

    def _end(self, end: Literal["terminated", "truncated", "lost"], error: str = "") -> None:
        self.result = DiamondEpisode(
            self.number, self.seed, self.steps, self.reward, end, self.items, tuple(self.switches), error
        )


def play_diamond(
    envs: Sequence[MineRLEnv],
    seeds: Sequence[int],
    policy: Callable[[int], TaskPolicy],
    schedule: TaskSchedule,
    log: EpisodeLog,
    logger: LoggerManager,
) -> None:
    """Play those of the `len(seeds)` episodes that `log` lacks, as many in parallel as there are `envs`.

    `policy(n)` makes the player of the episodes from number n on. If a simulator fails, its episode is logged as lost.
    If it cannot be reached again, its episode is given to another simulator. Raises `SimulatorUnreachable` if no
    simulator is left, and a `UserError` after ten rounds in which every episode was lost. A later call with the same
    log plays the missing and the lost episodes.
    """
    envs, todo, lost = list(envs), log.missing(len(seeds)), 0
    with logger.progress("episodes", len(seeds), start=len(seeds) - len(todo)) as bar:
        while todo:
            group = todo[: len(envs)]
            episodes = [_RunningEpisode(env, n, seeds[n], schedule) for env, n in zip(envs, group, strict=False)]
            ends: dict[int, str] = {}
            for result in _play_together(episodes, policy(group[0]), logger):
                log.add(result)
                ends[result.episode] = result.end
                bar.advance(1, note=f"episode {result.episode}: {_in_words(result)}")
                if result.end == "lost":
                    logger.warning(f"episode {result.episode} is lost: {result.error}")
            todo = [n for n in todo if n not in ends]
            for episode in episodes:
                if episode.unreachable is not None:
                    envs.remove(episode.env)
                    if not envs:
                        raise episode.unreachable
                    logger.warning(f"{episode.unreachable}; the evaluation continues with {len(envs)} simulators")
            lost = lost + 1 if set(ends.values()) == {"lost"} else 0
            if lost >= _MAX_LOST_ROUNDS:
                raise UserError(
                    f"the last {lost * len(envs)} episodes were all lost: check the simulators, then evaluate again"
                )


def _play_together(
    episodes: Sequence[_RunningEpisode], policy: TaskPolicy, logger: LoggerManager
) -> Iterable[DiamondEpisode]:
    """Play the episodes in lockstep; yields the result of each one as soon as it ends."""
    for episode in episodes:
        episode.try_call(lambda episode=episode: episode.env.reset_async(episode.seed))  # type: ignore[misc]
    for episode in episodes:
        episode.try_call(episode.begin)
    yield from (episode.result for episode in episodes if episode.result is not None and episode.unreachable is None)
    active = [episode for episode in episodes if episode.result is None]
    if active:
        policy.begin(_frames(episodes), [episode.label for episode in episodes])
    while active:
        actions = policy.act()
        for episode, action in zip(episodes, actions, strict=True):
            episode.try_call(lambda episode=episode, action=action: episode.request_step(action))  # type: ignore[misc]
        before = [episode.label for episode in episodes]
        for episode in active:
            count = len(episode.switches)
            episode.try_call(episode.finish_step)
            for switch in episode.switches[count:]:
                logger.info(f"episode {episode.number}, {switch}")
        yield from (episode.result for episode in active if episode.result is not None)
        active = [episode for episode in active if episode.result is None]
        if active:
            policy.observe(actions, _frames(episodes))
            labels = [episode.label for episode in episodes]
            if labels != before:
                policy.relabel(labels)


def _frames(episodes: Sequence[_RunningEpisode]) -> NDArray[np.uint8]:
    return np.stack([episode.frame for episode in episodes])


def _in_words(result: DiamondEpisode) -> str:
    got = ", ".join(item for item in ITEMS if item in result.items)
    return f"{got or 'nothing'} in {result.steps} steps ({result.end})"
