"""Reconstruction loss of the tokenizer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.config import TokenizerObjective
from embody.nn.masked_mean import Reduce, masked_mean, one_process
from embody.nn.noise import Noise
from embody.nn.running_rms import RunningRms
from embody.tokenizer.lpips import Lpips
from embody.tokenizer.model import Tokenizer

__all__ = ["TokenizerLoss", "random_crop"]


class TokenizerLoss(nn.Module):
    """`MSE / RMS(MSE) + 0.2 LPIPS / RMS(LPIPS)` of reconstructions of videos with dropped patches [P].

    The MSE is of standardised pixels, LPIPS of pixels in [-1, 1]. Without `lpips` the loss is the first term.
    """

    def __init__(self, objective: TokenizerObjective, lpips: Lpips | None = None) -> None:
        super().__init__()
        self.objective, self.lpips = objective, lpips
        self.mse_rms, self.lpips_rms = RunningRms(), RunningRms()

    def forward(
        self,
        tokenizer: Tokenizer,
        frames: Tensor,
        mask: Tensor,
        noise: Noise,
        masking: float = 1.0,
        *,
        reduce: Reduce = one_process,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of uint8 frames `[B, T, 3, H, W]` whose real timesteps are `mask` `[B, T]`.

        `masking` in [0, 1] scales the share of dropped patches.
        """
        if margin := self.objective.random_crop:
            frames = random_crop(frames, margin, noise)
        dropped = tokenizer.drop_patches(frames.shape[0], frames.shape[1], noise, self.objective.mask_max * masking)
        reconstruction = tokenizer.decode(tokenizer.encode(frames, dropped=dropped))
        target = tokenizer.standardise(frames)
        mse = masked_mean((reconstruction - target).square().mean(dim=(2, 3, 4)), mask, reduce)
        loss, metrics = self.mse_rms(mse, reduce=reduce), {"mse": mse.detach()}
        if self.lpips is not None:
            images, others = (2 * tokenizer.unstandardise(x).flatten(0, 1) - 1 for x in (reconstruction, target))
            lpips = masked_mean(self.lpips(images, others).view(mask.shape), mask, reduce)
            loss = loss + self.objective.lpips_weight * self.lpips_rms(lpips, reduce=reduce)
            metrics["lpips"] = lpips.detach()
        return loss, metrics


def random_crop(frames: Tensor, margin: int, noise: Noise) -> Tensor:
    """Frames `[B, T, 3, H, W]`, padded by `margin` zero pixels a side and cropped to H x W at a random place a
    video."""
    B, _, _, H, W = frames.shape
    device = frames.device
    corner_B2 = (noise.uniform(B, 2) * (2 * margin + 1)).long()
    row_BH1 = (corner_B2[:, :1] + torch.arange(H, device=device))[:, :, None]
    column_B1W = (corner_B2[:, 1:] + torch.arange(W, device=device))[:, None]
    video_B11 = torch.arange(B, device=device)[:, None, None]
    crop_BHWTC = F.pad(frames, (margin,) * 4)[video_B11, :, :, row_BH1, column_B1W]
    return crop_BHWTC.permute(0, 3, 4, 1, 2)
