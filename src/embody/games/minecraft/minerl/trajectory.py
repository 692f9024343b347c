"""Reads one MineRL 0.4.4 trajectory: `recording.mp4`, `rendered.npz` and `metadata.json` in a folder `v3_NAME`.

Shapes: T actions, T + 1 observations, A action factors, P tasks. In `rendered.npz` action t follows observation t. In
embody, timestep t has the action that led to observation t (docs/data.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.data.sources.source import MAX_CUT, common_length
from embody.errors import UserError
from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.events import was_crafted, was_obtained
from embody.games.minecraft.tasks import MINERL_REWARDS, TASKS, minerl_observations
from embody.saving.json_files import MOST_BYTES, parse_json
from embody.saving.reading import read_bytes, read_npz

__all__ = ["CORRUPTED", "POV", "Trajectory", "environment_in", "find_trajectories", "read_trajectory"]

CORRUPTED = ("tempting_capers_shapeshifter-14",)  # recordings that MineRL excludes too
POV = (64, 64)  # height and width of all of its videos in pixels

_VERSIONS = (3, 4)
_ARRAY_BYTES = 64 * 2**20  # of a trajectory: an hour of the longest kind takes 40 MiB


@dataclass(frozen=True)
class Trajectory:
    """The contents of the files, in MineRL's order: action t and reward t follow observation t."""

    environment: str
    name: str
    actions: Mapping[str, NDArray]  # by the names of `minerl_space`: [T], the camera [T, 2] in degrees
    rewards: NDArray[np.float32]  # [T]
    observations: Mapping[str, NDArray]  # by the names of the file, such as `inventory$log`: [T + 1]
    monitor: Mapping[str, NDArray]  # [T + 1]; usually empty
    metadata: Mapping[str, Any]
    video: Path
    first_frame: int  # the frame of the video that shows observation 0

    def timesteps(self) -> dict[str, Any]:
        """Fields of an episode of T + 1 timesteps: actions, camera, is_null, rewards, is_terminal, events, success."""
        space = minerl_space(self.environment)
        actions = np.concatenate([np.zeros((1, len(space.spec.sizes)), np.int64), space.factors(self.actions)])
        camera = np.concatenate([np.zeros((1, 2)), self.actions["camera"]]).astype(np.float32)
        rewards = np.concatenate([np.zeros(1, np.float32), self.rewards])
        is_null = (actions == space.nothing).all(axis=1) & (camera == 0).all(axis=1)
        is_null[0] = False
        is_terminal = np.zeros(len(rewards), bool)
        is_terminal[-1] = bool(self.metadata["success"])  # players left the other episodes, or their time was out
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

    def shown(self, frames: int) -> tuple[int, tuple[str, ...]]:
        """How many of the T + 1 observations a video file of `frames` frames shows, and in words what is cut off.

        A `UserError` if it lacks more than `MAX_CUT`.
        """
        counted = self.metadata["true_video_frame_count"]
        needed = self.first_frame + len(self.rewards) + 1
        difference = f"{self.video}: {frames} frames, its metadata says {counted}"
        length, cut = common_length(min(frames, counted), needed, difference)
        more = (f"{frames - counted} frames that its metadata does not count are left out",) if frames > counted else ()
        return length - self.first_frame, (*more, *cut)

    def cut(self, steps: int) -> "Trajectory":
        """The first `steps` actions and the observations around them; a shortened trajectory is no success."""
        if steps == len(self.rewards):
            return self
        return replace(
            self,
            actions=_first(self.actions, steps),
            rewards=self.rewards[:steps],
            observations=_first(self.observations, steps + 1),
            monitor=_first(self.monitor, steps + 1),
            metadata={**self.metadata, "success": False},
        )

    def _events(self, actions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The events `[T + 1, P]`, from the inventory, rewards, the tool's damage, and `actions` `[T + 1, A]`."""
        seen = self.observations
        none = np.zeros(len(actions), bool)

        def chosen(key: str, value: str) -> NDArray[np.bool_]:
            return np.append(False, self.actions[key] == value)

        def one_fewer(item: str) -> NDArray[np.bool_]:
            return np.diff(seen[f"inventory${item}"], prepend=0) == -1

        placed = {item: chosen("place", item) & one_fewer(item) for item in ("crafting_table", "furnace")}
        in_hand = seen["equipped_items$mainhand$type"]
        wear = np.append(False, np.diff(seen["equipped_items$mainhand$damage"]) > 0)
        wear[1:] &= in_hand[1:] == in_hand[:-1]
        columns = []
        for verb, item in (task.split("_", 1) for task in TASKS):
            match verb:
                case "mine" if item == "diamond":  # not part of the observation
                    column = np.append(False, self.rewards >= MINERL_REWARDS["diamond"][1])
                case "mine":
                    charcoal = chosen("nearbySmelt", "coal") if item == "coal" else none
                    column = was_obtained(seen[f"inventory${item}"]) & ~charcoal
                case "craft":
                    column = was_crafted(seen[f"inventory${item}"], placed.get(item, none))
                case "place":
                    column = placed[item]
                case "use":
                    column = wear & (in_hand == item)
                case _:
                    column = none  # opening a crafting table or furnace is not recorded
            columns.append(column)
        return np.stack(columns, axis=1)


def environment_in(root: Path) -> str:
    """The name of the environment whose recordings are in `root`; a `UserError` unless there is exactly one."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected a folder with one subfolder for each environment")
    found = sorted(path.name for path in root.glob("MineRL*-v0") if path.is_dir())
    if len(found) != 1:
        what = f"has {', '.join(found)}: choose one with --env" if found else "has no folder like MineRLTreechop-v0"
        raise UserError(f"{root} {what}")
    return found[0]


def find_trajectories(root: Path, environment: str) -> list[Path]:
    """The folders `v3_*` and `v4_*` at any depth of `root/environment`, by name; a `UserError` if there is none."""
    if (version := root / "VERSION").exists():
        said = read_bytes(version, 1000).decode("utf-8", "replace").strip()
        if said not in map(str, _VERSIONS):
            raise UserError(f"{version}: recordings of version {said[:20]!r}, but only {_VERSIONS} can be read")
    folder = root / environment
    found = sorted(
        (path for path in folder.rglob("v[34]_*") if path.is_dir()), key=lambda path: (path.name, path.parts)
    )
    if not found:
        raise UserError(f"no MineRL recording in {folder}: expected folders named v3_*, each with a recording.mp4")
    return found


def read_trajectory(folder: Path, environment: str) -> Trajectory:
    """Read the trajectory in `folder`, except for its video; a `UserError` says which file is damaged and how."""
    space = minerl_space(environment)
    if any(name in folder.name for name in CORRUPTED):
        raise UserError(f"{folder}: known to be corrupted")
    metadata = _metadata(folder / "metadata.json")
    path = folder / "rendered.npz"
    arrays = read_npz(path, _ARRAY_BYTES)
    _check(path, arrays, _expected_kinds(environment))
    steps = len(arrays["reward"])
    first = metadata["true_video_frame_count"] - (steps + 1)
    if first < -MAX_CUT:
        frames = metadata["true_video_frame_count"]
        said = f"{steps + 1} observations, but its video has {frames} frames: they may differ by at most {MAX_CUT}"
        raise UserError(f"{folder}: {said}")
    trajectory = Trajectory(
        environment=environment,
        name=folder.name,
        actions=_part(arrays, "action"),
        rewards=arrays["reward"].astype(np.float32),
        observations=_part(arrays, "observation"),
        monitor=_part(arrays, "monitor"),
        metadata=metadata,
        video=folder / "recording.mp4",
        first_frame=max(0, first),
    )
    try:
        space.factors(trajectory.actions)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return trajectory


def _metadata(path: Path) -> dict[str, Any]:
    content = read_bytes(path, MOST_BYTES)
    try:
        values = parse_json(content)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object")
    frames, success = values.get("true_video_frame_count"), values.get("success")
    values.setdefault("stream_name", path.parent.name)
    if type(frames) is not int or not isinstance(success, bool):
        raise UserError(f"{path}: true_video_frame_count must be a whole number and success true or false")
    return values


def _expected_kinds(environment: str) -> dict[str, str]:
    """The expected keys of `rendered.npz` and their kinds, "number" or "word"."""
    space = minerl_space(environment)
    kinds: dict[str, str] = {f"action${key}": "number" for key in (*space.keys, "camera")} | {"reward": "number"}
    kinds |= {f"action${key}": "word" for key in space.words}
    kinds |= {f"observation${key}": kind for key, kind in minerl_observations(environment).items()}
    return kinds


def _check(path: Path, arrays: Mapping[str, NDArray], expected: Mapping[str, str]) -> None:
    if missing := sorted(set(expected) - set(arrays)):
        raise UserError(f"{path}: {missing[0]} is missing")
    steps = len(arrays["reward"]) if arrays["reward"].ndim else 0
    if not steps:
        raise UserError(f"{path}: it has no step")
    for key, array in arrays.items():
        part = key.split("$")[0]
        if key not in expected and part != "monitor":
            raise UserError(f"{path}: unknown key {key}")
        length = steps if part in ("action", "reward") else steps + 1
        shape = (length, 2) if key == "action$camera" else (length,)
        if part != "monitor" and (array.shape if key in expected else array.shape[:1]) != shape:
            raise UserError(f"{path}: {key} has shape {list(array.shape)}, expected {list(shape)} for {steps} steps")
        kind = expected.get(key)
        if (kind == "number" and array.dtype.kind not in "biuf") or (kind == "word" and array.dtype.kind != "U"):
            raise UserError(f"{path}: {key} has type {array.dtype}, expected a {kind}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise UserError(f"{path}: {key} is not finite at step {at}")


def _first(arrays: Mapping[str, NDArray], length: int) -> dict[str, NDArray]:
    return {key: array[:length] for key, array in arrays.items()}


def _part(arrays: Mapping[str, NDArray], part: str) -> dict[str, NDArray]:
    return {key.partition("$")[2]: array for key, array in arrays.items() if key.startswith(f"{part}$")}
