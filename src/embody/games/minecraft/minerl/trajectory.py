"""One MineRL 0.4.4 trajectory: `recording.mp4`, `rendered.npz`, `metadata.json` in a folder `v3_NAME`.

Legend: T actions, T + 1 observations, A action factors, P tasks. `rendered.npz` has action t beside what was seen
before it; here, as everywhere in embody, timestep t holds the action that led to observation t (docs/data.md).
"""

import json
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.errors import UserError
from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.events import rises, was_crafted
from embody.games.minecraft.tasks import MINERL_REWARDS, TASKS, minerl_observations

__all__ = ["CORRUPTED", "POV", "Trajectory", "environment_in", "find_trajectories", "read_trajectory"]

CORRUPTED = ("tempting_capers_shapeshifter-14",)  # MineRL's own list
POV = (64, 64)  # pixels of all of its videos

_VERSIONS = (3, 4)
# One thread at a time: numpy parses headers with `ast`, whose depth Python 3.11 counts over all threads, so that two at
# once may end in a SystemError (python/cpython#106905).
_ARRAYS = threading.Lock()
# What damaged bytes lead to; a zip may name a way of packing that nobody knows, JSON be nested without end.
_WRONG = (
    *(ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error),
    *(OverflowError, RecursionError, NotImplementedError),
)


@dataclass(frozen=True)
class Trajectory:
    """What the files say, in the package's own order: action and reward t follow observation t."""

    environment: str
    name: str
    actions: Mapping[str, NDArray]  # [T], the camera [T, 2] in degrees; keys as in `minerl_space`
    rewards: NDArray[np.float32]  # [T]
    observations: Mapping[str, NDArray]  # [T + 1], keys as in the file: `inventory$log`
    monitor: Mapping[str, NDArray]  # [T + 1]; usually none
    metadata: Mapping[str, Any]
    video: Path
    first_frame: int  # of the video: it shows observation 0

    def timesteps(self) -> dict[str, Any]:
        """Fields of an episode of T + 1 timesteps: actions, camera, is_null, rewards, is_terminal, events, success."""
        space = minerl_space(self.environment)
        actions = np.concatenate([np.zeros((1, len(space.spec.sizes)), np.int64), space.factors(self.actions)])
        camera = np.concatenate([np.zeros((1, 2)), self.actions["camera"]]).astype(np.float32)
        rewards = np.concatenate([np.zeros(1, np.float32), self.rewards])
        is_null = (actions == space.nothing).all(axis=1) & (camera == 0).all(axis=1)
        is_null[0] = False
        is_terminal = np.zeros(len(rewards), bool)
        is_terminal[-1] = bool(self.metadata["success"])  # the others were left, or ran out of time
        events = self._events(actions) if "Obtain" in self.environment else None
        achieved = (rewards > 0).any() if "Treechop" in self.environment else is_terminal[-1]
        return {
            "actions": actions,
            "camera": camera,
            "is_null": is_null,
            "rewards": rewards,
            "is_terminal": is_terminal,
            "events": events,
            "success": bool(achieved if events is None else events.any()),
        }

    def _events(self, actions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`[T + 1, P]`, from inventory, rewards, wear of the tool, and the actions of the timesteps."""
        seen = self.observations
        none = np.zeros(len(actions), bool)

        def chosen(key: str, value: str) -> NDArray[np.bool_]:
            return np.append(False, self.actions[key] == value)

        def one_fewer(item: str) -> NDArray[np.bool_]:
            return np.diff(seen[f"inventory${item}"], prepend=0) == -1

        placed = {item: chosen("place", item) & one_fewer(item) for item in ("crafting_table", "furnace")}
        in_hand = seen["equipped_items$mainhand$type"]
        worn = np.append(False, np.diff(seen["equipped_items$mainhand$damage"]) > 0)
        worn[1:] &= in_hand[1:] == in_hand[:-1]
        columns = []
        for verb, item in (task.split("_", 1) for task in TASKS):
            match verb:
                case "mine" if item == "diamond":  # no part of the observation
                    column = np.append(False, self.rewards >= MINERL_REWARDS["diamond"][1])
                case "mine":
                    charcoal = chosen("nearbySmelt", "coal") if item == "coal" else none
                    column = rises(seen[f"inventory${item}"]) & ~charcoal
                case "craft":
                    column = was_crafted(seen[f"inventory${item}"], placed.get(item, none))
                case "place":
                    column = placed[item]
                case "use":
                    column = worn & (in_hand == item)
                case _:
                    column = none  # opening a table or furnace was not recorded
            columns.append(column)
        return np.stack(columns, axis=1)


def environment_in(root: Path) -> str:
    """The one environment whose recordings `root` holds; a `UserError` if there are none or several."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder: it should hold a folder of recordings for each environment")
    found = sorted(path.name for path in root.glob("MineRL*-v0") if path.is_dir())
    if len(found) != 1:
        what = f"holds {', '.join(found)}: choose one with --env" if found else "holds no folder like MineRLTreechop-v0"
        raise UserError(f"{root} {what}")
    return found[0]


def find_trajectories(root: Path, environment: str) -> list[Path]:
    """Folders `v3_*` and `v4_*` at any depth of `root/environment`, by name; a `UserError` if there are none."""
    if (version := root / "VERSION").exists():
        said = version.read_text(encoding="utf-8", errors="replace").strip()
        if said not in map(str, _VERSIONS):
            raise UserError(f"{version}: recordings of version {said[:20]!r}, only {_VERSIONS} can be read")
    folder = root / environment
    found = sorted(
        (path for path in folder.rglob("v[34]_*") if path.is_dir()), key=lambda path: (path.name, path.parts)
    )
    if not found:
        raise UserError(
            f"no MineRL recording in {folder}: it should hold folders named v3_*, with recording.mp4 in each"
        )
    return found


def read_trajectory(folder: Path, environment: str) -> Trajectory:
    """The trajectory in `folder`, its video not yet opened; a `UserError` of one line says what is broken where."""
    space = minerl_space(environment)
    if any(name in folder.name for name in CORRUPTED):
        raise UserError(f"{folder}: known to be corrupted")
    metadata = _metadata(folder / "metadata.json")
    path = folder / "rendered.npz"
    try:
        # No pickles: every array of a real recording is of numbers or words.
        with _ARRAYS, np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except _WRONG as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from error
    _check(path, arrays, _wanted(environment))
    steps = len(arrays["reward"])
    first = metadata["true_video_frame_count"] - (steps + 1)
    if first < 0:
        shown = metadata["true_video_frame_count"]
        raise UserError(f"{folder}: {steps + 1} observations, but its video has {shown} frames")
    trajectory = Trajectory(
        environment=environment,
        name=folder.name,
        actions=_part(arrays, "action"),
        rewards=arrays["reward"].astype(np.float32),
        observations=_part(arrays, "observation"),
        monitor=_part(arrays, "monitor"),
        metadata=metadata,
        video=folder / "recording.mp4",
        first_frame=first,
    )
    try:
        space.factors(trajectory.actions)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return trajectory


def _metadata(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        frames, success = values["true_video_frame_count"], values["success"]
        values.setdefault("stream_name", path.parent.name)
    except _WRONG as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(frames, int) or not isinstance(success, bool):
        raise UserError(f"{path}: true_video_frame_count must be a whole number and success true or false")
    return values


def _wanted(environment: str) -> dict[str, str]:
    """Keys of `rendered.npz` and of what kind they are: numbers or words."""
    space = minerl_space(environment)
    kinds: dict[str, str] = {f"action${key}": "number" for key in (*space.keys, "camera")} | {"reward": "number"}
    kinds |= {f"action${key}": "word" for key in space.words}
    kinds |= {f"observation${key}": kind for key, kind in minerl_observations(environment).items()}
    return kinds


def _check(path: Path, arrays: Mapping[str, NDArray], wanted: Mapping[str, str]) -> None:
    if missing := sorted(set(wanted) - set(arrays)):
        raise UserError(f"{path}: lacks {missing[0]}")
    steps = len(arrays["reward"]) if arrays["reward"].ndim else 0
    if not steps:
        raise UserError(f"{path}: holds no step")
    for key, array in arrays.items():
        part = key.split("$")[0]
        if key not in wanted and part != "monitor":
            raise UserError(f"{path}: unknown key {key}")
        length = steps if part in ("action", "reward") else steps + 1
        shape = (length, 2) if key == "action$camera" else (length,)
        if part != "monitor" and (array.shape if key in wanted else array.shape[:1]) != shape:
            raise UserError(f"{path}: {key} is {list(array.shape)}, {list(shape)} expected for {steps} steps")
        kind = wanted.get(key)
        if (kind == "number" and array.dtype.kind not in "biuf") or (kind == "word" and array.dtype.kind != "U"):
            raise UserError(f"{path}: {key} holds {array.dtype}, a {kind} is expected")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise UserError(f"{path}: {key} is not finite at step {at}")


def _part(arrays: Mapping[str, NDArray], part: str) -> dict[str, NDArray]:
    return {key.partition("$")[2]: array for key, array in arrays.items() if key.startswith(f"{part}$")}
