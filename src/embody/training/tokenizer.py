"""Phase 1a: the tokenizer learns to reconstruct video with dropped patches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embody.batch import Batch
from embody.config import Config
from embody.data import Dataset, batches, steps_per_epoch
from embody.tokenizer import Tokenizer, TokenizerLoss

__all__ = ["TokenizerStage"]

_STATISTICS_BATCHES = 8


class TokenizerStage:
    """Frames in, reconstruction loss out."""

    name = "tokenizer"

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self.config = config.train_tokenizer
        self.seed, self.workers, self.datasets = config.seed, config.workers, datasets
        self.steps = max(1, round(self.config.epochs * steps_per_epoch(datasets, "train", self.config)))
        torch.manual_seed(config.seed)
        self.model: Tokenizer = Tokenizer(config.tokenizer)
        self.losses: nn.Module = TokenizerLoss()
        self.model.set_pixel_statistics(self.some_frames())

    def some_frames(self) -> Tensor:
        """uint8 `[B, T, 3, H, W]` of the training split, for statistics."""
        source = iter(self.batches(0))
        frames = [next(source).frames for _ in range(_STATISTICS_BATCHES)]
        length = min(f.shape[1] for f in frames if f is not None)
        return torch.cat([f[:, :length] for f in frames if f is not None])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def batches(self, start: int) -> Iterable[Batch]:
        return batches(
            self.datasets,
            "train",
            self.config,
            source="frames",
            seed=self.seed,
            start=start,
            workers=self.workers,
        )

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.losses(self.model, batch.frames, batch.mask, generator)
