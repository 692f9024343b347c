"""The games that a run's policies are measured in: MiniGrid's tasks one by one, Crafter's worlds under a scheduler.

A game is a part of an evaluation: played once, kept, and put together with the others when all are there.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embody.config import Config
from embody.data import Dataset
from embody.data.goal import goal_of
from embody.evaluation.compare import BASELINE, against, outcomes_of
from embody.games import FAMILIES, evaluation_seeds
from embody.games.crafter.play import AchievementPolicy, Unlocked, play_achievements
from embody.games.success import Recording, demonstrations, play, summary
from embody.metrics.pictures import Film, action_captions, write_films
from embody.metrics.statistics import Outcomes, Statistic, bootstrap, crafter_score, mean_rate, mean_return

__all__ = ["CrafterGames", "Games", "MiniGridGames", "Player", "episode_film", "games_of"]

_FILMS = 2  # episodes of a game in the report

Player = Callable[[int], AchievementPolicy]  # a fresh one; the number is that of its random numbers
Found = Mapping[str, Sequence[Any]]  # policy -> what each game came to


class Games(Protocol):
    """All games of one family."""

    names: list[str]

    def play(self, number: int, player: Player, pictures: Path | None) -> Any:
        """Play the game of that number; what it came to, ready for JSON. Films go to `pictures`."""
        ...

    def results(self, found: Found) -> dict[str, Any]:
        """Rates of each policy, the difference to cloning's, and which episodes ("01...") of which seeds succeeded."""
        ...


def games_of(config: Config, datasets: Sequence[Dataset]) -> Games | None:
    """None if the environment is not played here."""
    families: Mapping[str, Callable[..., Games]] = {"minigrid": MiniGridGames, "crafter": CrafterGames}
    make = families.get(config.env.family)
    return make(config, datasets) if make else None


class MiniGridGames:
    """One game a task."""

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self._config, self._datasets = config, datasets
        self.names = [dataset.meta.tasks[0] for dataset in datasets]

    def play(self, number: int, player: Player, pictures: Path | None) -> str:
        """Which episodes succeeded, as "0110..."."""
        config, task = self._config, self.names[number]
        played = play(config.env, task, _seeds(config, task), player(number), config.evaluation.batch)
        if pictures:
            films = [episode_film(recording, "minigrid") for recording in played.recordings[:_FILMS]]
            write_films(pictures / f"episodes-{number}.npz", films)
        return _bits(played.success)

    def results(self, found: Found) -> dict[str, Any]:
        """As `Games`."""
        achieved = {policy: dict(zip(self.names, played, strict=True)) for policy, played in found.items()}
        seeds = {task: _seeds(self._config, task) for task in self.names}
        return _results(achieved, seeds, self._datasets)


class CrafterGames:
    """So many worlds a game, played side by side."""

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self._config, self._datasets = config, datasets
        self._achievements = FAMILIES["crafter"].achievements
        seeds, batch = _seeds(config, config.env.tasks[0]), config.evaluation.batch
        self._seeds = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
        self.names = [
            f"worlds {place * batch}-{place * batch + len(part) - 1}" for place, part in enumerate(self._seeds)
        ]

    def play(self, number: int, player: Player, pictures: Path | None) -> dict[str, Any]:
        """`Unlocked.to_json`."""
        config, record = self._config, _FILMS if pictures and number == 0 else 0
        seeds, goal = self._seeds[number], goal_of(config.agent.goal)
        played = play_achievements(config.env, config.achievements, seeds, player(number), goal, record)
        if pictures and record:
            films = [episode_film(recording, "crafter") for recording in played.recordings]
            write_films(pictures / "episodes-0.npz", films)
        return played.to_json()

    def results(self, found: Found) -> dict[str, Any]:
        """As `Games`; and of each policy its `score`, `return` (achievements an episode), length, deaths and reward.

        Intervals of what is over all achievements are bootstrapped over worlds.
        """
        unlocked = {policy: Unlocked.from_json(parts) for policy, parts in found.items()}
        achieved = {
            policy: {name: _bits(u.achieved[:, place]) for place, name in enumerate(self._achievements)}
            for policy, u in unlocked.items()
        }
        seeds = {self._config.env.tasks[0]: [seed for part in self._seeds for seed in part]}
        results = _results(achieved, seeds, self._datasets, together=True)
        for policy, u in unlocked.items():
            outcomes = u.achieved[None]
            results["success"][policy] |= _estimated(outcomes, mean_rate) | {
                "score": _estimated(outcomes, crafter_score),
                "return": _estimated(outcomes, mean_return),
                "length": float(u.length.mean()),
                "died": float(u.died.mean()),
                "reward": float(u.reward.mean()),
            }
        return results


def _results(
    achieved: Mapping[str, Mapping[str, str]],
    seeds: Mapping[str, Sequence[int]],
    datasets: Sequence[Dataset],
    together: bool = False,
) -> dict[str, Any]:
    counts = {name: {task: (o.count("1"), len(o)) for task, o in tasks.items()} for name, tasks in achieved.items()}
    outcomes = {"seeds": {task: [found[0], found[-1]] for task, found in seeds.items()}, "achieved": achieved}
    _, played = outcomes_of([{"outcomes": outcomes}])
    others = [name for name in played if name != BASELINE and BASELINE in played]
    return {
        "success": summary(counts, demonstrations(datasets, "validation"), together),
        "against_cloning": {name: against(played[name], played[BASELINE]) for name in others},
        "outcomes": outcomes,
    }


def _estimated(outcomes: Outcomes, statistic: Statistic) -> dict[str, float]:
    estimate = bootstrap(outcomes, statistic)
    return {"mean": float(estimate.value), "low": float(estimate.low), "high": float(estimate.high)}


def _bits(outcomes: np.ndarray) -> str:
    return "".join("01"[outcome] for outcome in outcomes.tolist())


def _seeds(config: Config, task: str) -> list[int]:
    settings = config.evaluation
    return evaluation_seeds(config, task, settings.full_episodes if settings.full else settings.episodes)


def episode_film(recording: Recording, family: str) -> Film:
    """A recorded episode with its actions in words."""
    outcome = "success" if recording.success else "no success"
    captions = action_captions(recording.actions, FAMILIES[family].action_names)
    return Film(f"{recording.label} ({outcome})", {"real": recording.frames}, captions)
