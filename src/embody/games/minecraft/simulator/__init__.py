"""MineRL, played through a server beside it (docs/simulator.md): the adapter here, `server.py` to run over there."""

from embody.games.minecraft.simulator.client import MineRLEnv, SimulatorGone, SimulatorLost, area_average

__all__ = ["MineRLEnv", "SimulatorGone", "SimulatorLost", "area_average"]
