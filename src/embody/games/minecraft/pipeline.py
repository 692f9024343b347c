"""Reads episodes from what `minerl.data.make` returns, that of the package or of `embody.games.minecraft.minerl`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embody.data import Episode, Meta
from embody.errors import UserError
from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.minerl import Trajectory
from embody.games.minecraft.recordings import minerl_episode, minerl_tasks, stream_of
from embody.games.minecraft.tasks import VOCABULARY

__all__ = ["Pipeline", "PipelineSource"]


@runtime_checkable
class Pipeline(Protocol):
    """The part of MineRL's `DataPipeline` that embody uses."""

    environment: str

    def get_trajectory_names(self) -> list[str]: ...

    def load_data(
        self,
        stream_name: str,
        skip_interval: int = 0,
        include_metadata: bool = False,
        include_monitor_data: bool = False,
    ) -> Iterator[Any]: ...


@dataclass(frozen=True)
class PipelineSource:
    """The trajectories of a pipeline as episodes, with frames resized to `height` x `width` pixels.

    The last frame of a trajectory is a copy of the one before it, since the package returns no other. `meta` and `read`
    raise a `UserError` if the pipeline's environment is unknown.
    """

    pipeline: Pipeline
    height: int
    width: int
    shard_size: int = 8  # episodes of a shard, whose frames are all in memory

    @property
    def provenance(self) -> dict[str, Any]:
        folder = str(getattr(self.pipeline, "data_dir", "a pipeline"))
        size = {"height": self.height, "width": self.width}
        return {"kind": "pipeline", "source": folder, "environment": self.pipeline.environment, **size}

    def names(self) -> list[str]:
        names = sorted(self.pipeline.get_trajectory_names())
        if not names:
            raise UserError(f"{self.provenance['source']}: the pipeline has no trajectory")
        return names

    def other_files(self) -> dict[str, str]:
        return {}

    def group(self, name: str) -> str:
        return stream_of(name)

    def meta(self) -> Meta:
        environment = self.pipeline.environment
        tasks, labels = minerl_tasks(environment)
        return Meta(tasks, minerl_space(environment).spec, self.height, self.width, 20, VOCABULARY, labels)

    def read(self, name: str) -> Episode:
        """Timestep t of the episode has action and reward of step t - 1, and the observation after that step."""
        observations, actions, rewards = [], [], []
        frames: list[NDArray[np.uint8]] = []
        metadata: dict[str, Any] = {"success": False}
        for obs, action, reward, next_obs, _, its_metadata in self.pipeline.load_data(name, include_metadata=True):
            if not frames:
                metadata |= its_metadata
                observations.append(_flattened(obs))
                frames.append(self._resized(obs["pov"]))
            observations.append(_flattened(next_obs))
            frames.append(self._resized(next_obs["pov"]))
            actions.append(_flattened(action))
            rewards.append(reward)
        if not frames:
            raise UserError(f"{name}: holds no step")
        trajectory = Trajectory(
            environment=self.pipeline.environment,
            name=name,
            actions=_stacked(actions),
            rewards=np.array(rewards, np.float32),
            observations=_stacked(observations),
            monitor={},
            metadata=metadata,
            video=Path(),
            first_frame=0,
        )
        timesteps = trajectory.timesteps()
        success = timesteps.pop("success")
        return minerl_episode(trajectory.environment, np.stack(frames), timesteps, name, success)

    def _resized(self, pov: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if pov.shape[:2] == (self.height, self.width):
            return pov
        return np.asarray(Image.fromarray(pov).resize((self.width, self.height), Image.Resampling.BOX))


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten `{"inventory": {"log": 1}}` to `{"inventory$log": 1}`, leaving out the frame."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}$")
        elif key != "pov":
            flat[prefix + key] = value
    return flat


def _stacked(rows: list[dict[str, Any]]) -> dict[str, NDArray]:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
