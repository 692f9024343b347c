"""Minecraft in simulators: a policy on its way to the diamond, several episodes side by side, resumable.

N episodes side by side, A action factors, H W pixels.
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
from embody.games.minecraft.schedule import Gains, Scheduler, TaskSchedule, check_schedule
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

_HOPELESS = 10  # times in a row that every simulator was lost: they are broken


def evaluate_in_simulator(
    config: Config,
    environment: str,
    servers: Sequence[str],
    policy: Simulated,
    logger: LoggerManager,
    command: str,
    device: torch.device,
) -> dict[str, Any]:
    """`evaluation.episodes` episodes of `policy` in MineRL's `environment`, one at a time behind each of `servers`.

    Its models run on `device`.

    Leaves `simulator/ENVIRONMENT-POLICY.jsonl` (the episodes), `.json` and `.md` (the table) in the run; returns what
    `diamond_summary` does. One that was stopped goes on.
    """
    path = config.run_dir / "simulator" / f"{environment}-{policy}.jsonl"
    with contextlib.ExitStack() as stack:
        envs = [stack.enter_context(contextlib.closing(env)) for env in connect(config, environment, servers)]
        player, plays = _player(config, policy, envs[0], device)
        about = {
            "environment": environment,
            "simulator": envs[0].simulator,
            "policy": policy,
            **plays,
            "schedule": to_dict(config.schedule),
            "seed": config.seed,
            "worlds": config.collect.seed,
        }
        log = EpisodeLog(path, about)
        seeds = evaluation_seeds(config, environment, config.evaluation.episodes)
        try:
            play_diamond(envs, seeds, player, _schedule(config), log, logger)
        finally:  # stopped or not, there is a table of what was played
            made = {"command": command, "date": time.strftime("%Y-%m-%d")}
            summary = {**diamond_summary(log.episodes.values(), len(seeds)), "about": about, "made": made}
            write_results(path.with_suffix(".json"), summary)
            write_diamond_page(path.with_suffix(".md"), summary, log.episodes.values())
    logger.info(diamond_table(summary))
    return summary


def connect(config: Config, environment: str, servers: Sequence[str]) -> list[MineRLEnv]:
    """A simulator behind each of `servers` (`host:port`), all alike; else a `UserError`. Nothing is played yet."""
    env = config.env
    if env.game != "minecraft":
        raise UserError(f"{config.name} plays {env.game}, not Minecraft: name a preset or a run of Minecraft's")
    if not servers or len(set(servers)) < len(servers):
        raise UserError("--server: at least one, and each once: a server has one simulator")
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
    """The config's; a `UserError` if nobody can be asked for its tasks."""
    if not isinstance(config.schedule, TaskSchedule):
        raise UserError(f"{config.name} has no schedule of tasks: begin with one of Minecraft's presets")
    check_schedule(config.schedule)
    return config.schedule


def _player(
    config: Config, policy: Simulated, env: MineRLEnv, device: torch.device
) -> tuple[Callable[[int], TaskPolicy], dict[str, Any]]:
    """What plays the episodes from a number on, and what makes two of them the same.

    Chance plays in any space of actions; a `UserError` if the policy was trained in another one than that of `env`.
    """
    space, own = env.space, config.env.actions
    if policy == "random":
        return lambda first: RandomPolicy(space.spec, np.random.default_rng([config.seed, first])), {}
    if space.spec != own:
        known = "vpt's" if own == VPT.spec else f"{len(own.sizes)} factors {own.sizes}"
        raise UserError(
            f"{env.environment} has the actions of {space.name} ({len(space.spec.sizes)} factors), {config.name}"
            f" those of another space ({known}): it cannot play there"
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


class _Row:
    """One episode under way in one simulator; `ended` says how it came out."""

    def __init__(self, env: MineRLEnv, number: int, seed: int, schedule: TaskSchedule) -> None:
        self.env, self.number, self.seed = env, number, seed
        self.scheduler = Scheduler(schedule)
        self.frame = np.zeros(env.observation_space.shape or (), np.uint8)
        self.steps, self.reward = 0, 0.0
        self.items: dict[str, int] = {}
        self.switches: list[str] = []
        self.ended: DiamondEpisode | None = None
        self.gone: SimulatorUnreachable | None = None  # before the episode began: it is not counted

    @property
    def label(self) -> str:
        return task_label(self.scheduler.task)

    def attempt(self, call: Callable[[], None]) -> None:
        """Do something with the simulator, whose loss ends the episode and nothing else."""
        if self.ended is None:
            try:
                call()
            except SimulatorLost as lost:
                self._end("error", str(lost))
            except SimulatorUnreachable as gone:
                self.gone = gone
                self._end("error", str(gone))

    def begin(self) -> None:
        self.frame, info = self.env.reset_wait()
        self.gains = Gains(info["inventory"])

    def ask(self, action: NDArray[np.int64]) -> None:
        self.action = self.env.space.dictionary(action)
        self.env.step_async(action)

    def advance(self) -> None:
        """The step that was asked for has been made."""
        self.frame, reward, terminated, truncated, info = self.env.step_wait()
        self.steps += 1
        self.reward += reward
        self.gains.update(info["inventory"], reward, self.action, info["gui"])
        for item in ITEMS:
            if self.gains.obtained[item] and item not in self.items:
                self.items[item] = self.steps
        self.switches += map(str, self.scheduler.update(self.steps, self.gains))
        if terminated or truncated:
            self._end("over" if terminated else "time")

    def _end(self, end: Literal["over", "time", "error"], error: str = "") -> None:
        self.ended = DiamondEpisode(
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
    """Play what `log` misses of `len(seeds)` episodes, as many side by side as there are `envs`.

    `policy(n)` plays the episodes from n on. A simulator that is lost costs its episode; one that does not come back
    costs none, and the others go on without it. That none is left, or all break every time, is a `UserError`
    or `SimulatorGone`: the same call goes on.
    """
    envs, todo, lost = list(envs), log.missing(len(seeds)), 0
    with logger.progress("episodes", len(seeds), start=len(seeds) - len(todo)) as bar:
        while todo:
            group = todo[: len(envs)]
            rows = [_Row(env, n, seeds[n], schedule) for env, n in zip(envs, group, strict=False)]
            ended: dict[int, str] = {}
            for episode in _play_rows(rows, policy(group[0]), logger):
                log.add(episode)
                ended[episode.episode] = episode.end
                bar.advance(1, note=f"episode {episode.episode}: {_in_words(episode)}")
                if episode.end == "error":
                    logger.warning(f"episode {episode.episode} is lost: {episode.error}")
            todo = [n for n in todo if n not in ended]
            for row in rows:
                if row.gone is not None:
                    envs.remove(row.env)
                    if not envs:
                        raise row.gone
                    logger.warning(f"{row.gone}; the other {len(envs)} go on")
            lost = lost + 1 if set(ended.values()) == {"error"} else 0
            if lost >= _HOPELESS:
                raise UserError(
                    f"the last {lost * len(envs)} episodes were all lost: look at the simulator, then evaluate again"
                )


def _play_rows(rows: Sequence[_Row], policy: TaskPolicy, logger: LoggerManager) -> Iterable[DiamondEpisode]:
    """Each episode as soon as it ends."""
    for row in rows:
        row.attempt(lambda row=row: row.env.reset_async(row.seed))  # type: ignore[misc]
    for row in rows:
        row.attempt(row.begin)
    yield from (row.ended for row in rows if row.ended is not None and row.gone is None)
    active = [row for row in rows if row.ended is None]
    if active:
        policy.begin(_frames(rows), [row.label for row in rows])
    while active:
        actions = policy.act()
        for row, action in zip(rows, actions, strict=True):
            row.attempt(lambda row=row, action=action: row.ask(action))  # type: ignore[misc]
        before = [row.label for row in rows]
        for row in active:
            told = len(row.switches)
            row.attempt(row.advance)
            for switch in row.switches[told:]:
                logger.info(f"episode {row.number}, {switch}")
        yield from (row.ended for row in active if row.ended is not None)
        active = [row for row in active if row.ended is None]
        if active:
            policy.observe(actions, _frames(rows))
            labels = [row.label for row in rows]
            if labels != before:
                policy.relabel(labels)


def _frames(rows: Sequence[_Row]) -> NDArray[np.uint8]:
    return np.stack([row.frame for row in rows])


def _in_words(episode: DiamondEpisode) -> str:
    got = ", ".join(item for item in ITEMS if item in episode.items)
    return f"{got or 'nothing'} in {episode.steps} steps ({episode.end})"
