"""Recordings in the exact formats of the published ones, made from real videos and real actions."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embody.games.minecraft.actions import VPT, minerl_space

REAL = Path(__file__).parents[2] / "shared" / "data"  # not part of the repository
NAVIGATE, OBTAIN, TREECHOP = "MineRLNavigate-v0", "MineRLObtainDiamond-v0", "MineRLTreechop-v0"
ITEMS = (
    *("coal", "cobblestone", "crafting_table", "dirt", "furnace", "iron_axe", "iron_ingot", "iron_ore", "iron_pickaxe"),
    *("log", "planks", "stick", "stone", "stone_axe", "stone_pickaxe", "torch", "wooden_axe", "wooden_pickaxe"),
)


def real(kind: str, suffix: str) -> list[Path]:
    """The real files of a kind; skips the test if they are missing."""
    files = sorted((REAL / kind).glob(f"*.{suffix}"))
    if not files:
        pytest.skip(f"no real recordings in {REAL / kind}")
    return files


def minerl_arrays(environment: str, steps: int, seed: int = 0) -> dict[str, NDArray]:
    """The content of `rendered.npz`: `steps` random actions, no rewards, an empty inventory."""
    random = np.random.default_rng(seed)
    space = minerl_space(environment)
    arrays: dict[str, NDArray] = {f"action${key}": random.integers(0, 2, steps) for key in space.keys}
    arrays |= {f"action${key}": random.choice(np.array(words), steps) for key, words in space.words.items()}
    arrays["action$camera"] = random.normal(0, 3, (steps, 2)).astype(np.float32)
    arrays["reward"] = np.zeros(steps, np.float32)
    if "Navigate" in environment:
        arrays["observation$compass$angle"] = random.uniform(-180, 180, steps + 1).astype(np.float32)
        arrays["observation$inventory$dirt"] = np.zeros(steps + 1, np.int64)
    if "Obtain" in environment:
        arrays |= {f"observation$inventory${item}": np.zeros(steps + 1, np.int64) for item in ITEMS}
        arrays["observation$equipped_items$mainhand$type"] = np.full(steps + 1, "none")
        arrays["observation$equipped_items$mainhand$damage"] = np.zeros(steps + 1, np.int64)
        arrays["observation$equipped_items$mainhand$maxDamage"] = np.zeros(steps + 1, np.int64)
    return arrays


def write_trajectory(
    root: Path, environment: str, name: str, arrays: dict[str, NDArray], video: Path, frames: int = 500, **meta: Any
) -> Path:
    """Write `root/environment/v3_NAME`, with a video of `frames` frames."""
    folder = root / environment / f"v3_{name}"
    folder.mkdir(parents=True)
    shutil.copyfile(video, folder / "recording.mp4")
    np.savez_compressed(folder / "rendered.npz", **arrays)
    steps = len(arrays["reward"])
    values = {"success": False, "duration_ms": steps * 50, "duration_steps": steps, "stream_name": folder.name}
    values |= {"total_reward": float(arrays["reward"].sum()), "true_video_frame_count": frames, **meta}
    (folder / "metadata.json").write_text(json.dumps(values))
    return folder


KEYBOARD = {
    **{"ESC": "escape", "forward": "w", "left": "a", "back": "s", "right": "d", "drop": "q", "inventory": "e"},
    **{"jump": "space", "sneak": "left.shift", "sprint": "left.control", "swapHands": "f"},
    **{f"hotbar.{n}": str(n) for n in range(1, 10)},
}
BUTTONS = {"attack": 0, "use": 1, "pickItem": 2}


def vpt_line(keys: tuple[str, ...] = (), dx: float = 0.0, dy: float = 0.0, **state: Any) -> dict[str, Any]:
    """A line of a contractor's file, of action names and pixels of the mouse; `state` replaces fields."""
    return {
        "mouse": {
            **{"x": 640.0, "y": 360.0, "dx": dx, "dy": dy, "scaledX": 0.0, "scaledY": 0.0, "dwheel": 0.0},
            **{"buttons": [BUTTONS[key] for key in keys if key in BUTTONS], "newButtons": []},
        },
        "keyboard": {
            "keys": [f"key.keyboard.{KEYBOARD[key]}" for key in keys if key in KEYBOARD],
            **{"newKeys": [], "chars": ""},
        },
        **{
            "isGuiOpen": False,
            "isGuiInventory": False,
            "hotbar": 0,
            "yaw": 0.0,
            "pitch": 0.0,
            "xpos": 0.5,
            "ypos": 63.0,
        },
        **{"zpos": 0.5, "tick": 0, "milli": 1649575088006, "inventory": [], "serverTick": 6001},
        **{"serverTickDurationMs": 36.3, "stats": {"minecraft.custom:minecraft.jump": 4}},
        **state,
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def contractor_actions(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keys `[T, 23]` in the order of VPT and camera degrees `[T, 2]` of a real contractor."""
    with np.load(path) as archive:
        keys = np.stack([archive[key] for key in VPT.keys], axis=1).astype(np.int64)
        return keys, (archive["camera"].astype(np.float64) - 40) * 0.5


def contractor_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that a recorder writes for these actions."""
    keys, degrees = contractor_actions(path)
    return [
        vpt_line(tuple(np.array(VPT.keys)[row == 1]), dx=yaw / 0.15, dy=pitch / 0.15)
        for row, (pitch, yaw) in zip(keys, degrees, strict=True)
    ]
