"""Evaluates policies task by task on held-out seeds; and functions that all games' evaluations share.

Shapes: N episodes, P achievements.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.config import Config
from embody.data import Dataset
from embody.games.registry import game
from embody.games.seeds import evaluation_seeds
from embody.games.success import Recording, demonstrations, play, summary
from embody.games.trials import Found, MakePolicy
from embody.metrics.outcomes import BASELINE, against, outcomes_of
from embody.metrics.pictures import Film, action_captions, write_films

__all__ = [
    "FILMS",
    "TaskTrials",
    "as_bits",
    "compared",
    "episode_film",
    "trial_seeds",
]

FILMS = 2  # episodes of a trial in the report


class TaskTrials:
    """One trial for each task: an episode for each of its held-out seeds."""

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self._config, self._datasets = config, datasets
        self.names = [dataset.meta.tasks[0] for dataset in datasets]

    def play(self, number: int, make_policy: MakePolicy, pictures: Path | None) -> str:
        """Play the episodes of one task; returns "0110...", a 1 for each successful one. Two films go to `pictures`."""
        config, task = self._config, self.names[number]
        played = play(config.env, task, trial_seeds(config, task), make_policy(number), config.evaluation.batch)
        if pictures:
            films = [episode_film(recording, config.env.game) for recording in played.recordings[:FILMS]]
            write_films(pictures / f"episodes-{number}.npz", films)
        return as_bits(played.success)

    def results(self, found: Found) -> dict[str, Any]:
        """As `Trials`."""
        achieved = {policy: dict(zip(self.names, played, strict=True)) for policy, played in found.items()}
        seeds = {task: trial_seeds(self._config, task) for task in self.names}
        return compared(achieved, seeds, self._datasets)


def compared(
    achieved: Mapping[str, Mapping[str, str]],
    seeds: Mapping[str, Sequence[int]],
    datasets: Sequence[Dataset],
    together: bool = False,
) -> dict[str, Any]:
    """The results `success`, `against_cloning` and `outcomes` of all policies.

    `achieved` is `{policy: {task or achievement: "0110..."}}`, with a 1 for each successful episode; `seeds` are those
    of each task's episodes; `together` is explained at `mean_over_tasks`.
    """
    counts = {name: {task: (o.count("1"), len(o)) for task, o in tasks.items()} for name, tasks in achieved.items()}
    outcomes = {"seeds": {task: [found[0], found[-1]] for task, found in seeds.items()}, "achieved": achieved}
    _, played = outcomes_of([{"outcomes": outcomes}])
    others = [name for name in played if name != BASELINE and BASELINE in played]
    return {
        "success": summary(counts, demonstrations(datasets, "validation"), together),
        "against_cloning": {name: against(played[name], played[BASELINE]) for name in others},
        "outcomes": outcomes,
    }


def as_bits(outcomes: NDArray[np.bool_]) -> str:
    """Bool `[N]` as a string "0110...", which takes a tenth of the space of a list in JSON."""
    return "".join("01"[outcome] for outcome in outcomes.tolist())


def trial_seeds(config: Config, task: str) -> list[int]:
    """The held-out seeds of all episodes that a policy is evaluated in."""
    settings = config.evaluation
    return evaluation_seeds(config, task, settings.full_episodes if settings.full else settings.episodes)


def episode_film(recording: Recording, played: str) -> Film:
    """A film of a recorded episode of the game `played`, with its actions in words."""
    outcome = "success" if recording.success else "no success"
    captions = action_captions(recording.actions, game(played).action_names)
    return Film(f"{recording.label} ({outcome})", {"real": recording.frames}, captions)
