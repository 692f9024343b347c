"""MineRL 0.4.4 recordings, and the interface of the package `minerl` that reads them: `minerl.data.make(...)`."""

from embody.games.minecraft.minerl import data
from embody.games.minecraft.minerl.data import BufferedBatchIter, DataPipeline, make
from embody.games.minecraft.minerl.trajectory import Trajectory, environment_in, find_trajectories, read_trajectory

__all__ = [
    "BufferedBatchIter",
    "DataPipeline",
    "Trajectory",
    "data",
    "environment_in",
    "find_trajectories",
    "make",
    "read_trajectory",
]
