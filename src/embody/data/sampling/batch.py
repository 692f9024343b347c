"""A batch of clips."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Clips of T timesteps from B episodes. Timestep t holds the action that led to it, its frame, reward and flags.

    The first timestep of an episode has no action and reward 0. A clip that begins before its episode repeats the first
    timestep: `is_first` is true in all copies, `mask` only in the last, real one. A clip that ends after its episode is
    padded on the right, where `mask` is false.
    """

    actions: Tensor  # int64 [B, T, A]; zeros and unused where is_first
    rewards: Tensor  # float32 [B, T]
    # float32 [B, T]: sum_{k>=1} gamma^(k-1) r_{t+k} up to the end of the episode, the target of the value at timestep t
    returns: Tensor
    is_first: Tensor  # bool [B, T]
    is_terminal: Tensor  # bool [B, T]
    mask: Tensor  # bool [B, T]: true for real timesteps; every loss is masked by it
    # int64 [B, W]: word indices of the task label, 0 is padding.
    # In multi-achievement mode bool [B, T, P]: the remaining tasks, which the recording has not achieved by timestep t
    task: Tensor
    labelled: Tensor  # bool [B]: false for plain videos, whose actions and rewards are unknown and set to 0
    is_null: Tensor  # bool [B, T]: the action that led here was "do nothing"
    bc: Tensor  # bool [B]: behaviour cloning applies to this row
    # bool [B]: the world model's loss counts on this row. It stays on the CPU, where selecting rows by it does not wait
    # for a GPU
    flow: Tensor
    events: Tensor | None = None  # bool [B, T, P], in multi-achievement mode: the tasks achieved at timestep t
    frames: Tensor | None = None  # uint8 [B, T, 3, H, W]
    latents: Tensor | None = None  # [B, T, L, Z]: float16 from disk, or float32 from the tokenizer

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; `flow` stays on the CPU."""
        return self._map(lambda field: field.to(device, non_blocking=True))

    def shared(self) -> "Batch":
        """The same batch with all fields except `flow` in memory that processes share."""
        return self._map(Tensor.share_memory_)

    def select(self, rows: Tensor) -> "Batch":
        """The rows for which `rows` (bool `[B]`, on the CPU) is true; the batch itself if that is all of them."""
        if rows.all():
            return self
        # On the CPU: nonzero() on a GPU would make the CPU wait for the shape of the result.
        places = rows.nonzero()[:, 0]
        on_device = places.to(self.mask.device, non_blocking=True)
        return dataclasses.replace(self._map(lambda field: field.index_select(0, on_device)), flow=self.flow[places])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `change` to each field except `flow`."""
        present = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "flow"}
        changed: dict[str, Any] = {name: change(field) for name, field in present.items() if field is not None}
        return dataclasses.replace(self, **changed)

    @property
    def rows(self) -> int:
        """B."""
        return self.actions.shape[0]

    @property
    def length(self) -> int:
        """T."""
        return self.actions.shape[1]
