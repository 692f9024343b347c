"""Reconstruction loss of the tokenizer."""

import torch
from torch import Tensor, nn

from embody.nn.running_rms import RunningRms
from embody.tokenizer.model import Tokenizer

__all__ = ["TokenizerLoss"]


class TokenizerLoss(nn.Module):
    """`MSE / RMS(MSE)` over standardised pixels, of videos with dropped patches [P]."""

    def __init__(self) -> None:
        super().__init__()
        self.mse_rms = RunningRms()

    def forward(
        self, tokenizer: Tokenizer, frames: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of uint8 frames `[B, T, 3, H, W]` whose real slots are `mask` `[B, T]`."""
        dropped = tokenizer.drop_patches(frames.shape[0], frames.shape[1], generator)
        reconstruction = tokenizer.decode(tokenizer.encode(frames, dropped=dropped))
        error_BT = (reconstruction - tokenizer.standardise(frames)).square().mean(dim=(2, 3, 4))
        mse = (error_BT * mask).sum() / mask.sum().clamp(min=1)
        return self.mse_rms(mse), {"mse": mse.detach()}
