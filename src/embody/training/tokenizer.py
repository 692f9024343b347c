"""Phase 1a: the tokenizer learns to reconstruct video with dropped patches; then, optionally, only its decoder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embody.config import Config
from embody.cost.flops import decoder_row_flops, tokenizer_row_flops
from embody.data import BatchShapes, ClipSpec, Dataset, EpisodeSelection, Mix, batches, stage_steps
from embody.data.sampling.batch import Batch
from embody.model import load_lpips
from embody.tokenizer import Tokenizer, TokenizerLoss
from embody.training.loop import StepContext

__all__ = ["DecoderStage", "TokenizerStage"]

_STATISTICS_BATCHES = 8


class TokenizerStage:
    """Trains the tokenizer on frames, by the reconstruction loss."""

    name = "tokenizer"

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self.config = config.train_tokenizer
        self.seed, self.workers, self.weights = config.seed, config.workers, config.data.weights
        self.datasets, self.uniform_share = datasets, config.tokenizer_objective.uniform_share
        all_steps = stage_steps(datasets, self.config, self.clips())
        self.decoder_steps = int(config.tokenizer_objective.decoder_share * all_steps)
        self.steps = all_steps - self.decoder_steps
        torch.manual_seed(config.seed)
        self.model: Tokenizer = Tokenizer(config.tokenizer, config.env.frame)
        self.objective, self.lpips = config.tokenizer_objective, load_lpips(config)
        self.losses: nn.Module = TokenizerLoss(self.objective, self.lpips)
        self.model.set_pixel_statistics(self.sample_frames())

    def sample_frames(self) -> Tensor:
        """uint8 `[B, T, 3, H, W]` of the training split, for statistics."""
        source = iter(self.batches(0))
        frames = [next(source).frames for _ in range(_STATISTICS_BATCHES)]
        length = min(f.shape[1] for f in frames if f is not None)
        return torch.cat([f[:, :length] for f in frames if f is not None])

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def clips(self) -> ClipSpec:
        return ClipSpec(
            EpisodeSelection("train", weights=self.weights),
            BatchShapes.of(self.config),
            mix=Mix(self.uniform_share),
        )

    def batches(self, start: int) -> Iterable[Batch]:
        return batches(self.datasets, self.clips(), seed=self.seed, start=start, workers=self.workers)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.losses(self.model, batch.frames, batch.mask, context.noise, reduce=context.reduce)

    def row_flops(self, frames: int, context: StepContext) -> float:
        return tokenizer_row_flops(self.model.config, self.objective, self.model.frame, frames)


class DecoderStage:
    """The last steps of phase 1a train only the decoder, while masking falls to 0, as in use.

    The encoder and the statistics do not change, so neither do the latents.
    """

    name = "tokenizer_decoder"

    def __init__(self, before: TokenizerStage) -> None:
        """`before` is finished and its latents' statistics are set; its model is finetuned in place."""
        self.tokenizer_stage, self.config, self.steps = before, before.config, before.decoder_steps
        self.model: Tokenizer = before.model
        self.model.freeze_encoder()
        self.losses: nn.Module = TokenizerLoss(before.objective, before.lpips)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    def batches(self, start: int) -> Iterable[Batch]:
        return self.tokenizer_stage.batches(self.tokenizer_stage.steps + start)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        masking = max(0.0, 1 - 2 * context.progress)  # the second half sees whole images
        return self.losses(self.model, batch.frames, batch.mask, context.noise, masking, reduce=context.reduce)

    def row_flops(self, frames: int, context: StepContext) -> float:
        return decoder_row_flops(self.model.config, self.tokenizer_stage.objective, self.model.frame, frames)
