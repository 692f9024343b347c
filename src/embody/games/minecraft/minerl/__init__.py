"""Reads the recordings of MineRL 0.4.4, also by the interface of the package `minerl`: `minerl.data.make(...)`."""

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
