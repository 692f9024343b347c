"""Minecraft's action spaces, shared by recordings and simulators, and the bins of the camera (docs/minecraft.md).

Shapes: T steps, A action factors. Camera turns are [pitch, yaw] in degrees a step; down and right are positive.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embody.config import ActionSpec
from embody.errors import UserError

__all__ = ["CAMERA_BINS", "VPT", "ActionSpace", "camera_bins", "camera_degrees", "minerl_space"]

# --- camera ---------------------------------------------------------------------------------------------------------

CAMERA_BINS = 11  # of each axis
_MAXIMUM = 10.0  # degrees a step
_MU, _BIN = 10.0, 2.0  # of the mu-law; the width of a bin after it, in degrees


def camera_bins(degrees: ArrayLike) -> NDArray[np.int64]:
    """The joint bin `11 i + j` of a camera turn, 0 to 120: int64 `[...]` for degrees `[..., 2]`; 60 is no turn.

    i and j are the mu-law bins of pitch and yaw (VPT, appendix): for x clipped to [-10, 10],
    `i = round((10 sign(x) ln(1 + 10 |x| / 10) / ln 11 + 10) / 2)`.
    """
    x = np.clip(np.asarray(degrees, np.float64), -_MAXIMUM, _MAXIMUM) / _MAXIMUM
    squeezed = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    i = np.round((squeezed + 1) * _MAXIMUM / _BIN).astype(np.int64)
    return i[..., 0] * CAMERA_BINS + i[..., 1]


def camera_degrees(bins: ArrayLike) -> NDArray[np.float32]:
    """The degrees `[..., 2]` at the centres of joint bins `[...]`, which `camera_bins` maps back to the same bins."""
    i = np.stack(np.divmod(np.asarray(bins, np.int64), CAMERA_BINS), axis=-1)
    squeezed = i * _BIN / _MAXIMUM - 1
    return (_MAXIMUM * np.sign(squeezed) * (np.power(1 + _MU, np.abs(squeezed)) - 1) / _MU).astype(np.float32)


# --- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActionSpace:
    """A simulator's dictionary of actions as factored categoricals: first the keys, then the words, then the camera."""

    name: str
    keys: tuple[str, ...]  # actions that are 0 or 1
    words: Mapping[str, tuple[str, ...]]  # actions that choose one of several words; the first word does nothing

    @property
    def spec(self) -> ActionSpec:
        """The number of choices of each factor."""
        return ActionSpec((2,) * len(self.keys) + tuple(map(len, self.words.values())) + (CAMERA_BINS**2,))

    @property
    def nothing(self) -> NDArray[np.int64]:
        """The action `[A]` that does nothing: no key, no word, no turn of the camera."""
        action = np.zeros(len(self.spec.sizes), np.int64)
        action[-1] = CAMERA_BINS**2 // 2
        return action

    def factors(self, action: Mapping[str, Any]) -> NDArray[np.int64]:
        """The factors `[..., A]` of a dictionary of arrays `[...]`; the camera's is `[..., 2]`, in degrees.

        Actions that are not given do nothing. Raises a `UserError` for an action or value that the space does not have.
        """
        if unknown := sorted(set(action) - {*self.keys, *self.words, "camera"}):
            raise UserError(f"unknown action {unknown[0]!r}: {self.name} has {', '.join((*self.keys, *self.words))}")
        shape = np.shape(next(iter(action.values()))) if "camera" not in action else np.shape(action["camera"])[:-1]
        out = np.broadcast_to(self.nothing, (*shape, len(self.spec.sizes))).copy()
        for place, key in enumerate(self.keys):
            value = np.asarray(action.get(key, 0))
            if not np.isin(value, (0, 1)).all():
                raise UserError(f"action {key} must be 0 or 1, got {value.tolist()}")
            out[..., place] = value
        for place, (key, choices) in enumerate(self.words.items(), len(self.keys)):
            value = np.asarray(action.get(key, choices[0]))
            known = np.array(choices)
            if not np.isin(value, known).all():
                wrong = next(v for v in np.ravel(value).tolist() if v not in choices)
                raise UserError(f"action {key}: unknown value {wrong!r}, choose one of {', '.join(choices)}")
            out[..., place] = (value[..., None] == known).argmax(axis=-1)
        if "camera" in action:
            degrees = np.asarray(action["camera"], np.float64)
            if not np.isfinite(degrees).all():
                raise UserError("action camera: all degrees must be finite")
            out[..., -1] = camera_bins(degrees)
        return out

    def dictionary(self, factors: ArrayLike) -> dict[str, Any]:
        """The simulator's dictionary for one action `[A]`; the camera turns by the degrees at the centre of its bin."""
        a = np.asarray(factors, np.int64)
        assert a.shape == (len(self.spec.sizes),), f"one action of {len(self.spec.sizes)} factors, got {a.shape}"
        out: dict[str, Any] = {key: int(value) for key, value in zip(self.keys, a, strict=False)}
        for place, (key, choices) in enumerate(self.words.items(), len(self.keys)):
            out[key] = choices[a[place]]
        return {**out, "camera": camera_degrees(a[-1])}


VPT = ActionSpace(
    "vpt",
    (
        *("ESC", "attack", "back", "drop", "forward"),
        *(f"hotbar.{n}" for n in range(1, 10)),
        *("inventory", "jump", "left", "pickItem", "right", "sneak", "sprint", "swapHands", "use"),
    ),
    {},
)  # the 23 keys of MineRL 1.0 and of the contractors' recordings

_MOVES = ("attack", "back", "forward", "jump", "left", "right", "sneak", "sprint")
_TOOLS = ("wooden_axe", "wooden_pickaxe", "stone_axe", "stone_pickaxe", "iron_axe", "iron_pickaxe")
_OBTAIN: dict[str, tuple[str, ...]] = {
    "place": ("none", "dirt", "stone", "cobblestone", "crafting_table", "furnace", "torch"),
    "equip": ("none", "air", *_TOOLS),
    "craft": ("none", "torch", "stick", "planks", "crafting_table"),
    "nearbyCraft": ("none", *_TOOLS, "furnace"),
    "nearbySmelt": ("none", "iron_ingot", "coal"),
}
_WORDS: Mapping[str, dict[str, tuple[str, ...]]] = {
    "Treechop": {},
    "Navigate": {"place": ("none", "dirt")},
    "NavigateDense": {"place": ("none", "dirt")},
    "NavigateExtreme": {"place": ("none", "dirt")},
    "NavigateExtremeDense": {"place": ("none", "dirt")},
    "ObtainDiamond": _OBTAIN,
    "ObtainDiamondDense": _OBTAIN,
    "ObtainIronPickaxe": _OBTAIN,
    "ObtainIronPickaxeDense": _OBTAIN,
}


def minerl_space(environment: str) -> ActionSpace:
    """The action space of a MineRL 0.4.4 environment such as `MineRLObtainDiamond-v0`.

    Raises a `UserError` that lists the known environments if there is no such environment.
    """
    name = environment.removeprefix("MineRL").removesuffix("-v0")
    if name not in _WORDS or environment != f"MineRL{name}-v0":
        known = ", ".join(f"MineRL{known}-v0" for known in _WORDS)
        raise UserError(f"unknown MineRL environment {environment!r}: choose one of {known}")
    return ActionSpace("minerl044", _MOVES, _WORDS[name])
