"""The interface of a game's evaluation: the episodes that policies play, and further measures and report sections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from embody.config import Config
from embody.data import Dataset
from embody.games.policy import TaskPolicy
from embody.metrics.results_file import Results
from embody.metrics.rollouts import FrameMeasures
from embody.metrics.sections import Section
from embody.metrics.targets import HEADLINES, Target

__all__ = ["Found", "GameEvaluation", "MakePolicy", "Trials"]

MakePolicy = Callable[[int], TaskPolicy]  # makes a new policy; the argument seeds its random numbers
Found = Mapping[str, Sequence[Any]]  # policy -> the outcome of each trial, as `Trials.play` returned it


class Trials(Protocol):
    """The trials that every policy plays. A trial is a group of episodes; its outcome is saved when it ends."""

    names: list[str]  # of the trials

    def play(self, number: int, make_policy: MakePolicy, pictures: Path | None) -> Any:
        """Play one trial; returns its outcome as JSON values. Films go to the folder `pictures` if it is given."""
        ...

    def results(self, found: Found) -> dict[str, Any]:
        """The success rates of each policy, their differences from BC's, and the outcome of each episode."""
        ...


@dataclass(frozen=True)
class GameEvaluation:
    """What a game measures and reports beyond what every run does; the defaults add nothing."""

    trials: Callable[[Config, Sequence[Dataset]], Trials] | None = None  # None: policies play no episodes
    one_task_a_dataset: bool = False  # if so, datasets of tasks that the run does not have are not used
    frame_measures: Callable[[Sequence[Dataset]], FrameMeasures] | None = None  # made from the run's datasets
    # Keys of `FrameMeasures.of_rollouts` that are also measured before the agent's training.
    drift: tuple[str, ...] = ()
    # Keys of `FrameMeasures.of_rollouts` that the ablation's table shows -> the titles of their columns, in percent.
    ablation: Mapping[str, str] = field(default_factory=dict)
    success: str = "success"  # what the rate of a policy is called in a sentence
    targets: tuple[Target, ...] = HEADLINES
    sections: Callable[[Results], Sequence[Section]] = lambda results: ()  # of the report
