"""What `minerl.data.make` returns, the package's or ours (`embody.games.minecraft.minerl`), as a source of episodes."""

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
    """The part of MineRL's `DataPipeline` that is used."""

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
    """The pipeline's trajectories, frames resized; as the package gives them, the last frame is the one before it.

    A `UserError` if they are of an environment that is not known.
    """

    pipeline: Pipeline
    height: int
    width: int
    shard_size: int = 8  # their frames are in memory

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

    def group(self, name: str) -> str:
        return stream_of(name)

    def meta(self) -> Meta:
        environment = self.pipeline.environment
        tasks, labels = minerl_tasks(environment)
        return Meta(tasks, minerl_space(environment).spec, self.height, self.width, 20, VOCABULARY, labels)

    def read(self, name: str) -> Episode:
        """Timestep t has what step t - 1 led to: its action and reward, and the observation after it."""
        observations, actions, rewards = [], [], []
        frames: list[NDArray[np.uint8]] = []
        metadata: dict[str, Any] = {"success": False}
        for obs, action, reward, after, _, said in self.pipeline.load_data(name, include_metadata=True):
            if not frames:
                metadata |= said
                observations.append(_flat(obs))
                frames.append(self._resized(obs["pov"]))
            observations.append(_flat(after))
            frames.append(self._resized(after["pov"]))
            actions.append(_flat(action))
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


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"inventory": {"log": 1}}` as `{"inventory$log": 1}`, without the frame."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}$")
        elif key != "pov":
            flat[prefix + key] = value
    return flat


def _stacked(rows: list[dict[str, Any]]) -> dict[str, NDArray]:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
