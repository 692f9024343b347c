"""What a game's policies are measured in, and what else it measures and shows of a run."""

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

MakePolicy = Callable[[int], TaskPolicy]  # a fresh one; the number is that of its random numbers
Found = Mapping[str, Sequence[Any]]  # policy -> what each trial came to


class Trials(Protocol):
    """What every policy plays: each trial is played once, kept, and put together with the others when all are there."""

    names: list[str]

    def play(self, number: int, make_policy: MakePolicy, pictures: Path | None) -> Any:
        """Play the trial of that number; what it came to, ready for JSON. Films go to `pictures`."""
        ...

    def results(self, found: Found) -> dict[str, Any]:
        """Rates of each policy, the difference to cloning's, and which episodes ("01...") of which seeds succeeded."""
        ...


@dataclass(frozen=True)
class GameEvaluation:
    """What a game measures and shows beyond what every run does; the defaults add nothing."""

    trials: Callable[[Config, Sequence[Dataset]], Trials] | None = None  # None: policies are not played
    one_task_a_dataset: bool = False  # then datasets of tasks that the run has not are not measured with
    frame_measures: Callable[[Sequence[Dataset]], FrameMeasures] | None = None  # made from the run's datasets
    drift: tuple[
        str, ...
    ] = ()  # keys of `FrameMeasures.of_rollouts` that are also measured before the agent's training
    ablation: Mapping[str, str] = field(default_factory=dict)  # such keys -> the title of a column of percents
    success: str = "success"  # what the rate of a policy is called in a sentence
    targets: tuple[Target, ...] = HEADLINES
    sections: Callable[[Results], Sequence[Section]] = lambda results: ()  # of the report
