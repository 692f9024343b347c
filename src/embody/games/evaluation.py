"""What is measured of a run on a game, and one way of playing for it: every task's held-out seeds.

N episodes, P achievements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embody.config import Config
from embody.data import Dataset
from embody.games.registry import game
from embody.games.seeds import evaluation_seeds
from embody.games.success import Policy, Recording, demonstrations, play, summary
from embody.metrics.outcomes import BASELINE, against, outcomes_of
from embody.metrics.pictures import Film, action_captions, write_films
from embody.metrics.results_file import Results
from embody.metrics.rollouts import FrameMeasures
from embody.metrics.sections import Section
from embody.metrics.targets import HEADLINES, Target

__all__ = [
    "FILMS",
    "Found",
    "GameEvaluation",
    "Player",
    "TaskPolicy",
    "TaskTrials",
    "Trials",
    "as_bits",
    "compared",
    "episode_film",
    "trial_seeds",
]

FILMS = 2  # episodes of a trial in the report


class TaskPolicy(Policy, Protocol):
    """A policy whose task may change within an episode."""

    def relabel(self, labels: list[str]) -> None:
        """What the N episodes ask for from now on."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the N episodes only."""


Player = Callable[[int], TaskPolicy]  # a fresh one; the number is that of its random numbers
Found = Mapping[str, Sequence[Any]]  # policy -> what each trial came to


class Trials(Protocol):
    """What every policy plays: each trial is played once, kept, and put together with the others when all are there."""

    names: list[str]

    def play(self, number: int, player: Player, pictures: Path | None) -> Any:
        """Play the trial of that number; what it came to, ready for JSON. Films go to `pictures`."""
        ...

    def results(self, found: Found) -> dict[str, Any]:
        """Rates of each policy, the difference to cloning's, and which episodes ("01...") of which seeds succeeded."""
        ...


@dataclass(frozen=True)
class GameEvaluation:
    """What a game measures and shows beyond what every run does; the defaults add nothing."""

    trials: Callable[[Config, Sequence[Dataset]], Trials] | None = None  # None: policies are not played
    frame_measures: Callable[[Sequence[Dataset]], FrameMeasures] | None = None  # made from the run's datasets
    targets: tuple[Target, ...] = HEADLINES
    sections: Callable[[Results], Sequence[Section]] = lambda results: ()  # of the report


class TaskTrials:
    """One trial a task: its held-out seeds."""

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self._config, self._datasets = config, datasets
        self.names = [dataset.meta.tasks[0] for dataset in datasets]

    def play(self, number: int, player: Player, pictures: Path | None) -> str:
        """Which episodes succeeded, as "0110..."."""
        config, task = self._config, self.names[number]
        played = play(config.env, task, trial_seeds(config, task), player(number), config.evaluation.batch)
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
    """`success`, `against_cloning` and `outcomes` of `{policy: {task or achievement: "0110..."}}`.

    `seeds`: of each task's episodes. `together`: see `mean_over_tasks`.
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
    """Bool `[N]` as "0110...": a tenth of a list in JSON."""
    return "".join("01"[outcome] for outcome in outcomes.tolist())


def trial_seeds(config: Config, task: str) -> list[int]:
    """Of all episodes that a policy is measured in."""
    settings = config.evaluation
    return evaluation_seeds(config, task, settings.full_episodes if settings.full else settings.episodes)


def episode_film(recording: Recording, played: str) -> Film:
    """A recorded episode of the game `played`, with its actions in words."""
    outcome = "success" if recording.success else "no success"
    captions = action_captions(recording.actions, game(played).action_names)
    return Film(f"{recording.label} ({outcome})", {"real": recording.frames}, captions)
