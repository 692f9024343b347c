"""A gymnasium environment that plays MineRL through `server.py`, which runs beside MineRL (docs/simulator.md)."""

from embody.games.minecraft.simulator.client import MineRLEnv, SimulatorLost, SimulatorUnreachable, area_average

__all__ = ["MineRLEnv", "SimulatorUnreachable", "SimulatorLost", "area_average"]
