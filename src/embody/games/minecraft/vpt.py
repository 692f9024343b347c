"""Reads one segment of VPT's contractor recordings: `NAME.jsonl` with a line for each frame of `NAME.mp4`.

Shapes: T frames, A action factors, P tasks. Line i has the state that frame i shows and the action that follows it. In
embody, timestep t has the action that led to frame t, which is the action of line t - 1 (docs/data.md). The action of
the last line has no outcome and is left out.
"""

import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.data.sources.source import common_length, is_hidden
from embody.errors import UserError
from embody.games.minecraft.actions import VPT
from embody.games.minecraft.events import events_of_inventory, events_of_stats
from embody.saving.json_files import parse_json, read_object
from embody.saving.reading import read_bytes

__all__ = ["Segment", "find_segments", "read_segment"]

_KEYS = {
    **{"escape": "ESC", "w": "forward", "a": "left", "s": "back", "d": "right", "q": "drop", "e": "inventory"},
    **{"space": "jump", "left.shift": "sneak", "left.control": "sprint", "f": "swapHands"},
    **{str(n): f"hotbar.{n}" for n in range(1, 10)},
}
_BUTTONS = ("attack", "use", "pickItem")
_DEGREES = 360 / 2400  # a pixel of the mouse
_RECORDED_HEIGHT = 720  # pixels in which the pointer's place is given
# The factor of mouse movements while a GUI is open, by the version of the recorder; 1 for other versions.
_GUI_SCALE = {"5.7": 0.5, "5.8": 0.5, "6.7": 2.0, "6.8": 2.0, "6.9": 2.0}
_ITEMS = (
    *("log", "planks", "cobblestone", "iron_ore", "coal", "diamond", "stick", "crafting_table", "furnace"),
    *("iron_ingot", "wooden_pickaxe", "stone_pickaxe", "iron_pickaxe"),
)

_FILE_BYTES, _LINE_BYTES, _CONTAINERS = 64 * 2**20, 2**18, 4096  # of a file, and of a line: ten times the real ones
_LONGEST_PATH = 1000  # characters of a path in an index

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Segment:
    """The T timesteps of a segment, as in `Episode`."""

    actions: NDArray[np.int64]  # [T, A] of `minecraft.VPT`
    camera: NDArray[np.float32]  # [T, 2]: pitch and yaw in degrees, as recorded
    is_null: NDArray[np.bool_]  # [T]: whether the player did nothing
    events: NDArray[np.bool_]  # [T, P]: whether the task was achieved
    pointer: NDArray[
        np.float64
    ]  # [T, 2]: the mouse pointer's x and y over the frame's height; NaN while no GUI is open
    changes: tuple[str, ...] = ()  # what was cut off, see `Episode.changes`

    def cursor(self, height: int) -> NDArray[np.int16]:
        """The mouse pointer `[T, 2]` in pixels of a video of that `height`; -1 while no GUI is open."""
        limit = np.iinfo(np.int16).max
        return np.where(np.isnan(self.pointer), -1, np.clip(np.nan_to_num(self.pointer) * height, 0, limit)).astype(
            np.int16
        )


def find_segments(source: Path) -> list[tuple[str, Path | None]]:
    """The segments of `source`, a folder or an index file: their names and their paths without suffix, sorted by name.

    An index is JSON with `basedir` and `relpaths`. If `basedir` is a folder, the files are in it; in the published
    indices it is a web address, and then the files are in the index's own folder. A file is expected at its relative
    path or, after a flat download, directly in the folder. A path that leaves the folder is returned as None.

    Raises a `UserError` if there is no segment, or the file is not an index.
    """
    if source.is_dir():
        stems = {path.with_suffix("") for suffix in ("mp4", "jsonl") for path in source.rglob(f"*.{suffix}")}
        named = sorted((stem.relative_to(source).as_posix(), stem) for stem in stems)
        found = [(name, stem) for name, stem in named if not any(map(is_hidden, name.split("/")))]
        if not found:
            raise UserError(f"no recording in {source}: expected files NAME.mp4 and NAME.jsonl")
        return list(found)
    index = read_object(source, "name a folder, or an index of recordings")
    basedir, relpaths = index.get("basedir", ""), index.get("relpaths")
    if not isinstance(basedir, str) or not isinstance(relpaths, list) or not all(type(p) is str for p in relpaths):
        raise UserError(f"{source}: not an index of recordings with basedir, a text, and relpaths, a list of texts")
    if not relpaths:
        raise UserError(f"{source}: the index has no relpaths")
    folder = source.parent / basedir if basedir and os.path.isdir(source.parent / basedir) else source.parent
    return [(name, _inside(folder, name)) for name in sorted({path.removesuffix(".mp4") for path in relpaths})]


def _inside(folder: Path, name: str) -> Path | None:
    """The path of a segment in `folder`; None if it would be outside, or is not a path."""
    normal = os.path.normpath(name)
    if not name.isprintable() or len(name) > _LONGEST_PATH:
        return None
    if os.path.isabs(normal) or normal.split(os.sep)[0] in ("..", "."):
        return None
    flat = os.path.basename(normal)
    if not os.path.exists(folder / f"{normal}.mp4") and os.path.exists(folder / f"{flat}.mp4"):
        normal = flat
    # A folder that links to a place outside is refused; the files themselves may be links to another disk.
    inside = (folder / normal).parent.resolve().is_relative_to(folder.resolve())
    return folder / normal if inside else None


def read_segment(path: Path, name: str, frames: int | None = None) -> Segment:
    """Read the segment in the file `path`; a `UserError` says which line is damaged and how.

    `frames`: the number of frames of its video, by default that of its lines. The segment has the timesteps that both
    have; see `common_length`. The version of the recorder is the last part of `name` that looks like `6.9`, or else of
    the path.
    """
    parts = [*Path(name).parts[::-1], *path.absolute().parts[::-1], *path.resolve().parts[::-1]]
    version = next((part for part in parts if re.fullmatch(r"\d+\.\d+", part)), "")
    lines, incomplete = _lines(path)
    length = len(lines)
    cut: tuple[str, ...] = ()
    if frames is not None:
        video = path.with_suffix(".mp4")
        difference = f"{video}: {frames} frames, but {path.name} has {length} lines"
        length, cut = common_length(frames, length, difference)
    segment = _segment(lines[:length], path, _GUI_SCALE.get(version, 1.0))
    return dataclasses.replace(segment, changes=(*incomplete, *cut))


def _lines(path: Path) -> tuple[list[Line], tuple[str, ...]]:
    """The lines of a file, and in words what was left out: a last line that was not written to its end."""
    content = read_bytes(path, _FILE_BYTES).rstrip(b"\0 \r\n")
    if not content:
        raise UserError(f"{path}: the file is empty")
    lines: list[Line] = []
    file = io.BytesIO(content)
    for text in file:
        number = len(lines) + 1
        try:
            lines.append(_line(text))
        except ValueError as error:
            is_last = file.tell() == len(content)
            if number > 1 and is_last and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                return lines, (f"line {number} of {path.name} is incomplete and left out",)
            raise UserError(f"{path}, line {number}: bad JSON ({error})") from error
        except KeyError as error:
            raise UserError(f"{path}, line {number}: {error} is missing") from error
    return lines, ()


def _line(text: bytes) -> Line:
    """One line; a `ValueError` or `KeyError` if it is not one."""
    if len(text) > _LINE_BYTES or text.count(b"[") + text.count(b"{") > _CONTAINERS:
        raise UserError(f"more than {_LINE_BYTES} bytes or {_CONTAINERS} lists and objects")
    line = parse_json(text)
    if not isinstance(line, dict):
        raise UserError("not an object")
    if missing := [key for key in ("mouse", "keyboard") if key not in line]:
        raise KeyError(missing[0])
    return line


def _segment(lines: Sequence[Line], path: Path, gui_scale: float) -> Segment:
    pressed = np.zeros((len(lines), len(VPT.keys)), np.int64)
    turns = np.zeros((len(lines), 2))
    pointer = np.full((len(lines), 2), np.nan)
    gui = np.zeros(len(lines), bool)
    attack_stuck, hotbar = False, None
    for i, line in enumerate(lines):
        try:
            mouse, keys = line["mouse"], [_key(key) for key in line["keyboard"]["keys"]]
            buttons, fresh = list(mouse["buttons"]), list(mouse.get("newButtons", []))
            # In some recordings `attack` is wrongly down from the start until it is first pressed.
            attack_stuck = fresh == [0] if i == 0 else attack_stuck and 0 not in fresh
            names = [key for key in keys if key]
            names += [_BUTTONS[b] for b in buttons if b in (1, 2) or (b == 0 and not attack_stuck)]
            # The mouse wheel was not recorded: where it turned, another place of the hotbar is selected.
            before, hotbar = hotbar, line.get("hotbar", hotbar)
            if hotbar not in (None, *range(9)):
                raise UserError(f"hotbar must be 0 to 8, got {hotbar!r}")
            if before is not None and hotbar != before:
                names.append(f"hotbar.{hotbar + 1}")
            pressed[i, [VPT.keys.index(name) for name in names]] = 1
            gui[i] = line.get("isGuiOpen", False)
            scale = _DEGREES * (gui_scale if gui[i] else 1)
            turns[i] = _finite(mouse["dy"]) * scale, _finite(mouse["dx"]) * scale
            if gui[i]:
                pointer[i] = _finite(mouse["x"]) / _RECORDED_HEIGHT, _finite(mouse["y"]) / _RECORDED_HEIGHT
        except KeyError as error:
            raise UserError(f"{path}, line {i + 1}: {error} is missing") from error
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{path}, line {i + 1}: {error}") from error
    done = {key: pressed[:-1, place] for place, key in enumerate(VPT.keys)} | {"camera": turns[:-1]}
    first = np.zeros((1, len(VPT.keys) + 1), np.int64)  # timestep 0: no action led there
    using = np.append(False, pressed[:-1, VPT.keys.index("use")] == 1)
    return Segment(
        actions=np.concatenate([first, VPT.factors(done)]),
        camera=np.concatenate([np.zeros((1, 2)), turns[:-1]]).astype(np.float32),
        is_null=np.append(False, ~pressed[:-1].any(axis=1) & (turns[:-1] == 0).all(axis=1)),
        events=_events(lines, path, gui, using),
        pointer=pointer,
    )


def _key(name: str) -> str | None:
    """The action of a key; None for a key without one, such as a letter in the chat or F3."""
    if not str(name).startswith("key."):
        raise UserError(f"unknown key {name!r}")
    return _KEYS.get(name.removeprefix("key.keyboard."))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"{value} is not finite")
    return number


def _quantity(value: Any) -> int:
    if not 0 <= (quantity := int(value)) < 2**31:
        raise UserError(f"a stack of {quantity}")
    return quantity


def _events(lines: Sequence[Line], path: Path, gui: NDArray[np.bool_], using: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The events `[T, P]`, from the counters if the file has any, else from the inventory."""
    try:
        stats = [line.get("stats") or {} for line in lines]
        if any(stats):
            return events_of_stats(stats)
        counts = {item: np.zeros(len(lines), np.int64) for item in _ITEMS}
        for i, line in enumerate(lines):
            for stack in line.get("inventory") or []:
                kind = str(stack["type"])
                item = next((wood for wood in ("log", "planks") if kind.endswith(f"_{wood}")), kind)
                if item in counts:
                    counts[item][i] += _quantity(stack["quantity"])
        return events_of_inventory(counts, gui, using)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: stats or inventory is not in VPT's format ({error})") from error
