"""Success in the real environment: of policies on held-out seeds, and of the recorded demonstrations.

N environments, T timesteps, A action factors, H W pixels.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embody.config import EnvConfig
from embody.data import EVERY_TASK, Dataset, EpisodeRow
from embody.games.lockstep import LockstepEnvs
from embody.games.policy import Policy
from embody.metrics.rates import Counts, mean_over_tasks, rate

__all__ = [
    "Demonstrations",
    "Recording",
    "Successes",
    "demonstrations",
    "play",
    "summary",
]


class Envs(Protocol):
    """N environments in lockstep, as `embody.games.LockstepEnvs`."""

    labels: list[str]

    def reset(self) -> NDArray[Any]: ...

    def step(self, actions: NDArray[Any], active: NDArray[Any]) -> tuple[NDArray[Any], ...]: ...


@dataclass(frozen=True)
class Recording:
    """The frames and actions of one played episode; timestep 0 has no action."""

    task: str
    label: str
    success: bool
    frames: NDArray[np.uint8]  # [T, H, W, 3]
    actions: NDArray[np.int64]  # [T, A]: timestep t led to frame t; zeros at timestep 0


@dataclass(frozen=True)
class Successes:
    """The outcomes of one policy's episodes of one task."""

    success: NDArray[np.bool_]  # [N]
    length: NDArray[np.int64]  # [N]: the number of actions played
    recordings: tuple[Recording, ...]  # the first few episodes

    @property
    def counts(self) -> Counts:
        """(successes, episodes)."""
        return int(self.success.sum()), len(self.success)


def play(
    config: EnvConfig,
    task: str,
    seeds: Sequence[int],
    policy: Policy,
    batch: int,
    record: int = 4,
    envs: Callable[[EnvConfig, str, Sequence[int]], Envs] = LockstepEnvs,
) -> Successes:
    """Play one episode for each of `seeds`, at least one, with `batch` environments at a time.

    The first `record` episodes are returned as recordings. The environment's step limit truncates long episodes.
    """
    assert seeds and batch >= 1, f"play {task}: {len(seeds)} seeds, batches of {batch}"
    parts = []
    for start in range(0, len(seeds), batch):
        chunk = seeds[start : start + batch]
        kept = max(0, min(record - start, len(chunk)))
        parts.append(_play_batch(task, envs(config, task, chunk), policy, kept))
    return Successes(
        np.concatenate([part.success for part in parts]),
        np.concatenate([part.length for part in parts]),
        tuple(recording for part in parts for recording in part.recordings),
    )


def _play_batch(task: str, envs: Envs, policy: Policy, record: int) -> Successes:
    frames = envs.reset()
    n = len(frames)
    policy.begin(frames, envs.labels)
    active, success = np.ones(n, bool), np.zeros(n, bool)
    length = np.zeros(n, np.int64)
    seen, played = [frames[:record]], []
    while active.any():
        actions = policy.act()
        frames, _, terminated, truncated, succeeded = envs.step(actions, active)
        length += active
        success |= active & succeeded
        active = active & ~(terminated | truncated)
        seen.append(frames[:record])
        played.append(actions[:record])
        if active.any():
            policy.observe(actions, frames)
    recordings = []
    for i in range(record):
        steps = int(length[i])
        before = np.zeros_like(played[0][i])
        recordings.append(
            Recording(
                task,
                envs.labels[i],
                bool(success[i]),
                np.stack([timestep[i] for timestep in seen[: steps + 1]]),
                np.stack([before, *(timestep[i] for timestep in played[:steps])]),
            )
        )
    return Successes(success, length, tuple(recordings))


# --- demonstrations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstrations:
    """How many recorded episodes succeeded, of how many, by task."""

    tasks: Mapping[str, Counts]
    by_noise: Mapping[str, Mapping[str, Counts]]  # share of random actions, or "off_task" -> task -> counts


def demonstrations(datasets: Iterable[Dataset], split: str) -> Demonstrations:
    """Count the successes of the recorded episodes of `split`: overall, and by their share of random actions.

    Off-task episodes are a group of their own. An episode with events counts once for each task of its dataset.
    Episodes without labels are not counted, since their success is unknown.
    """
    tasks: dict[str, Counts] = defaultdict(lambda: (0, 0))
    by_noise: dict[str, dict[str, Counts]] = defaultdict(lambda: defaultdict(lambda: (0, 0)))
    for dataset in datasets:
        for row in dataset.episodes(split):
            quality = "off_task" if row.source == "off_task" else f"{row.noise:g}"
            for task, success in _outcomes(dataset, row) if row.labelled else ():
                for counts in (tasks, by_noise[quality]):
                    k, n = counts[task]
                    counts[task] = (k + success, n + 1)
    return Demonstrations(dict(tasks), {noise: dict(by_noise[noise]) for noise in sorted(by_noise)})


def _outcomes(dataset: Dataset, row: EpisodeRow) -> Iterable[tuple[str, bool]]:
    if row.task != EVERY_TASK:
        return [(row.task, row.success)]
    steps = dataset.steps
    happened = slice(*np.searchsorted(steps.event_rows, dataset.offsets[row.id : row.id + 2]))
    found = set(steps.event_tasks[happened].tolist())
    return [(task, place in found) for place, task in enumerate(dataset.meta.tasks)]


# --- summary --------------------------------------------------------------------------------------------------------


def summary(
    results: Mapping[str, Mapping[str, Counts]], recorded: Demonstrations | None = None, together: bool = False
) -> dict[str, dict[str, Any]]:
    """Success rates with 95% intervals as JSON values: `{policy: {mean, low, high, episodes, tasks: {task: ...}}}`.

    `results` is `{policy: {task: (successes, episodes)}}`. `recorded`, if it has any task, adds the entry
    `demonstrations` with `by_noise`: `{"0.25": {mean, low, high, episodes}}`. `together` is explained at
    `mean_over_tasks`.
    """
    table = {policy: _rates(tasks, together) for policy, tasks in results.items()}
    if recorded is not None and recorded.tasks:
        by_noise = {noise: dataclasses.asdict(mean_over_tasks(t, together)) for noise, t in recorded.by_noise.items()}
        table["demonstrations"] = _rates(recorded.tasks, together) | {"by_noise": by_noise}
    return table


def _rates(tasks: Mapping[str, Counts], together: bool) -> dict[str, Any]:
    each = {task: dataclasses.asdict(rate(k, n)) for task, (k, n) in tasks.items()}
    return dataclasses.asdict(mean_over_tasks(tasks, together)) | {"tasks": each}
