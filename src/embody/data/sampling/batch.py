"""One batch of clips, in the one time convention: a timestep holds what arrived together."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Clips of `T` timesteps from `B` episodes: action that led here, frame, reward that came with it, flags.

    An episode's first timestep has no action and reward 0. A clip that begins before its episode repeats that one
    (`is_first` there, `mask` false except on the real one); a clip that outlasts its episode is padded (`mask` false).
    """

    actions: Tensor  # int64 [B, T, A]; zeros (not read) where is_first
    rewards: Tensor  # float32 [B, T]
    returns: (
        Tensor  # float32 [B, T]: sum_{k>=1} gamma^(k-1) r_{t+k} to the episode's end; what V at timestep t predicts
    )
    is_first: Tensor  # bool [B, T]
    is_terminal: Tensor  # bool [B, T]
    mask: Tensor  # bool [B, T]: real timesteps; every loss is masked by it
    # int64 [B, W]: word indices of the task label, 0 is padding. In multi-achievement mode bool [B, T, P]: which tasks
    # the recording has not achieved by timestep t, and so are left to do
    task: Tensor
    labelled: Tensor  # bool [B]: false for plain videos, whose actions and rewards are zeros that say nothing
    is_null: Tensor  # bool [B, T]: timesteps that were reached by doing nothing at all
    bc: Tensor  # bool [B]: behaviour cloning applies to this row
    # bool [B]: the world model's loss counts on this row. It stays on the CPU, so that rows can be selected by it
    # without waiting for a GPU
    flow: Tensor
    events: Tensor | None = None  # bool [B, T, P], in multi-achievement mode: tasks achieved at a timestep
    frames: Tensor | None = None  # uint8 [B, T, 3, H, W]
    latents: Tensor | None = None  # [B, T, L, Z], as the tokenizer gives them: float16 as stored, or float32

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, but for `flow`."""
        return self._map(lambda field: field.to(device, non_blocking=True))

    def select(self, rows: Tensor) -> "Batch":
        """The rows for which `rows` (bool `[B]`, on the CPU) is true, in their order; itself if these are all."""
        if rows.all():
            return self
        # Found on the CPU: a mask on a GPU would have the CPU wait for it, since it gives the shape of the result.
        places = rows.nonzero()[:, 0]
        on_device = places.to(self.mask.device, non_blocking=True)
        return dataclasses.replace(self._map(lambda field: field.index_select(0, on_device)), flow=self.flow[places])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """`change` of each field but `flow`."""
        present = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "flow"}
        changed: dict[str, Any] = {name: change(field) for name, field in present.items() if field is not None}
        return dataclasses.replace(self, **changed)

    @property
    def rows(self) -> int:
        return self.actions.shape[0]

    @property
    def length(self) -> int:
        return self.actions.shape[1]
