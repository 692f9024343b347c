"""Minecraft's actions as both recordings and simulator know them: action spaces and camera bins (docs/minecraft.md).

Legend: T steps, A action factors. Camera turns are [pitch, yaw] in degrees a step; down and right are positive.
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

CAMERA_BINS = 11  # an axis
_MAXIMUM, _MU, _BIN = 10.0, 10.0, 2.0  # degrees a step, of the mu-law, degrees between equal bins


def camera_bins(degrees: ArrayLike) -> NDArray[np.int64]:
    """`11 i + j`, i and j the mu-law bins of pitch and yaw, `[...]` for degrees `[..., 2]`; 60 is no turn.

    `i = round((10 sign(x) ln(1 + 10 |x| / 10) / ln 11 + 10) / 2)` for x in [-10, 10], clipped to it (VPT, appendix).
    """
    x = np.clip(np.asarray(degrees, np.float64), -_MAXIMUM, _MAXIMUM) / _MAXIMUM
    squeezed = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    i = np.round((squeezed + 1) * _MAXIMUM / _BIN).astype(np.int64)
    return i[..., 0] * CAMERA_BINS + i[..., 1]


def camera_degrees(bins: ArrayLike) -> NDArray[np.float32]:
    """Degrees `[..., 2]` at the centre of joint bins `[...]`: the inverse of `camera_bins` there."""
    i = np.stack(np.divmod(np.asarray(bins, np.int64), CAMERA_BINS), axis=-1)
    squeezed = i * _BIN / _MAXIMUM - 1
    return (_MAXIMUM * np.sign(squeezed) * (np.power(1 + _MU, np.abs(squeezed)) - 1) / _MU).astype(np.float32)


# --- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActionSpace:
    """A simulator's dictionary of actions as factored categoricals: keys, then choices among words, then the camera."""

    name: str
    keys: tuple[str, ...]  # 0 or 1 each
    words: Mapping[str, tuple[str, ...]]  # one of several, the first of which does nothing

    @property
    def spec(self) -> ActionSpec:
        """Sizes of the factors."""
        return ActionSpec((2,) * len(self.keys) + tuple(map(len, self.words.values())) + (CAMERA_BINS**2,))

    @property
    def nothing(self) -> NDArray[np.int64]:
        """`[A]`: no key, no choice, no turn."""
        action = np.zeros(len(self.spec.sizes), np.int64)
        action[-1] = CAMERA_BINS**2 // 2
        return action

    def factors(self, action: Mapping[str, Any]) -> NDArray[np.int64]:
        """`[..., A]` of a dictionary of arrays `[...]` (the camera `[..., 2]`); a `UserError` for a key or value
        that this space does not have. Keys that are not given do nothing."""
        if unknown := sorted(set(action) - {*self.keys, *self.words, "camera"}):
            raise UserError(f"action key {unknown[0]!r} is none of {self.name}'s")
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
                raise UserError(f"action {key}: {wrong!r} is none of {', '.join(choices)}")
            out[..., place] = (value[..., None] == known).argmax(axis=-1)
        if "camera" in action:
            degrees = np.asarray(action["camera"], np.float64)
            if not np.isfinite(degrees).all():
                raise UserError("action camera must be finite")
            out[..., -1] = camera_bins(degrees)
        return out

    def dictionary(self, factors: ArrayLike) -> dict[str, Any]:
        """What the simulator takes, for one action `[A]`: the inverse of `factors` at the camera's bin centres."""
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
)  # MineRL 1.0 and the contractor recordings: 23 keys

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
    """The actions of a MineRL 0.4.4 environment such as `MineRLObtainDiamond-v0`; a `UserError` lists those known."""
    name = environment.removeprefix("MineRL").removesuffix("-v0")
    if name not in _WORDS or environment != f"MineRL{name}-v0":
        known = ", ".join(f"MineRL{known}-v0" for known in _WORDS)
        raise UserError(f"unknown MineRL environment {environment!r}: choose one of {known}")
    return ActionSpace("minerl044", _MOVES, _WORDS[name])
