"""The registration of Minecraft: recordings with several action spaces, and MineRL behind a simulator's server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embody.config import Config
from embody.games.minecraft.actions import VPT
from embody.games.minecraft.presets import minecraft, minecraft_small
from embody.games.minecraft.tasks import TASKS, VOCABULARY, task_label
from embody.games.registry import Game, Recordings, Simulated, Simulator

if TYPE_CHECKING:
    import torch

    from embody.data.sources.source import Source
    from embody.logger_manager import LoggerManager

__all__ = ["GAME"]

_KEYS = {  # Minecraft's default keys -> VPT's actions
    **{"w": "forward", "a": "left", "s": "back", "d": "right", " ": "jump", "Shift": "sneak", "Control": "sprint"},
    **{"e": "inventory", "q": "drop", "f": "swapHands", **{str(n): f"hotbar.{n}" for n in range(1, 10)}},
}


def _minerl(folder: Path, environment: str | None) -> "Source":
    from embody.games.minecraft.minerl import environment_in
    from embody.games.minecraft.recordings import MinerlSource

    return MinerlSource(folder, environment or environment_in(folder))


def _vpt(folder: Path, environment: str | None) -> "Source":
    from embody.games.minecraft.recordings import VptSource

    return VptSource(folder)


def _source_of(data: object, frame: tuple[int, int]) -> "Source | None":
    from embody.games.minecraft.pipeline import Pipeline, PipelineSource

    return PipelineSource(data, *frame) if isinstance(data, Pipeline) else None


def _in_minerl(
    config: Config,
    environment: str,
    servers: Sequence[str],
    policy: Simulated,
    logger: "LoggerManager",
    command: str,
    device: "torch.device",
) -> Mapping[str, Any]:
    from embody.games.minecraft.play import evaluate_in_simulator

    return evaluate_in_simulator(config, environment, servers, policy, logger, command, device)


GAME = Game(
    name="minecraft",
    presets={"minecraft_small": minecraft_small, "minecraft": minecraft},
    vocabulary=VOCABULARY,
    achievements=TASKS,
    labels=tuple(map(task_label, TASKS)),
    keys={key: (VPT.keys.index(name), 1) for key, name in _KEYS.items()},
    recordings={
        "minerl": Recordings(
            "MineRL's trajectories of Minecraft, of one of its environments.", _minerl, has_environments=True
        ),
        "vpt": Recordings("Segments of Minecraft that OpenAI's contractors played (VPT).", _vpt),
    },
    source_of=_source_of,
    simulators={"minerl": Simulator(_in_minerl, preset="minecraft")},
)
