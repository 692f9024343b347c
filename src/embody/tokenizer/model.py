"""Masked-autoencoder video tokenizer.

Legend: B rows, T frames, C H W pixels, P patches, L latent tokens, Z latent channels, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.config import TokenizerConfig
from embody.errors import UserError
from embody.nn.cache import RingCache
from embody.nn.noise import Noise
from embody.nn.transformer import Transformer, initialise

__all__ = ["Tokenizer"]

_STATISTICS_ROWS = 8  # clips encoded side by side for the statistics of latents


class Tokenizer(nn.Module):
    """Encodes frames, uint8 `[B, T, 3, H, W]`, as standardised latents, float32 `[B, T, L, Z]`, and decodes them.

    In the encoder, patch tokens attend to one another and latent tokens to both [P]. In the decoder, latent tokens
    attend to one another and patch read-outs to both [P]. Both are causal in time, over at most `config.context`
    frames. Frames are zero-padded below and on the right to fill the grid of patches [P]; the padding is cropped after
    decoding.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    encoder_positions: Tensor
    decoder_positions: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: TokenizerConfig, frame: tuple[int, int]) -> None:
        """`frame` is the (height, width) of frames in pixels."""
        super().__init__()
        self.config, self.frame = config, frame
        self.grid = config.grid(frame)
        patches = self.grid[0] * self.grid[1]
        enc, dec = config.encoder.width, config.decoder.width
        self.patch_in = nn.Conv2d(3, enc, config.patch, stride=config.patch)
        self.patch_position_PD = nn.Parameter(torch.randn(patches, enc))
        self.masked_D = nn.Parameter(torch.randn(enc))
        self.latent_LD = nn.Parameter(_anchors(self.patch_position_PD, config.latents))
        self.encoder = Transformer(config.encoder, images_first=True)
        self.to_latent = nn.Linear(enc, config.channels)
        self.from_latent = nn.Linear(config.channels, dec)
        self.readout_PD = nn.Parameter(torch.randn(patches, dec))
        self.latent_position_LD = nn.Parameter(_anchors(self.readout_PD, config.latents))
        self.decoder = Transformer(config.decoder, images_first=True)
        self.patch_out = nn.ConvTranspose2d(dec, 3, config.patch, stride=config.patch)
        for layer in (self.to_latent, self.from_latent):
            initialise(layer, 1)
        # Each latent has the mean position of its patches, in RoPE too.
        patch_P = torch.arange(patches, dtype=torch.float32)
        latent_L = (torch.arange(config.latents) + 0.5) * patches / config.latents - 0.5
        self.register_buffer("encoder_positions", torch.cat((patch_P, latent_L)), persistent=False)
        self.register_buffer("decoder_positions", torch.cat((latent_L, patch_P)), persistent=False)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 0.25))
        self.register_buffer("latent_mean", torch.zeros(config.channels))
        self.register_buffer("latent_std", torch.ones(config.channels))

    def encoder_cache(self, rows: int) -> RingCache:
        """An empty cache for encoding `rows` videos frame by frame."""
        return self._cache(self.encoder, rows)

    def decoder_cache(self, rows: int) -> RingCache:
        """An empty cache for decoding `rows` videos frame by frame."""
        return self._cache(self.decoder, rows)

    def _cache(self, trunk: Transformer, rows: int) -> RingCache:
        return trunk.new_cache(rows, self.grid[0] * self.grid[1] + self.config.latents, self.config.context)

    def set_pixel_statistics(self, frames: Tensor) -> None:
        """Set the mean and standard deviation of each colour to those of uint8 `frames` `[..., 3, H, W]`."""
        pixels = frames.flatten(0, -4).float() / 255
        self.pixel_mean.copy_(pixels.mean(dim=(0, 2, 3))[:, None, None])
        self.pixel_std.copy_(pixels.std(dim=(0, 2, 3)).clamp(min=1e-3)[:, None, None])

    @torch.no_grad()
    def set_latent_statistics(self, frames: Tensor) -> None:
        """Set the latents' mean and standard deviation, so that each channel is standardised on these frames.

        `frames` is uint8 `[B, T, 3, H, W]`.
        """
        self.latent_mean.zero_()
        self.latent_std.fill_(1.0)
        # A few rows at a time, because the cache of each row takes memory.
        latents = torch.cat([self.encode_video(rows) for rows in frames.split(_STATISTICS_ROWS)])
        self.latent_mean.copy_(latents.mean(dim=(0, 1, 2)))
        self.latent_std.copy_(latents.std(dim=(0, 1, 2)).clamp(min=1e-3))

    def standardise(self, frames: Tensor) -> Tensor:
        """uint8 frames `[..., 3, H, W]` as float32 of mean 0 and standard deviation 1 in each colour."""
        return (frames.float() / 255 - self.pixel_mean) / self.pixel_std

    def pad(self, frames: Tensor) -> Tensor:
        """uint8 frames `[..., H, W]`, padded with black below and on the right to fill the grid of patches [P]."""
        rows, columns = (side * self.config.patch for side in self.grid)
        return F.pad(frames, (0, columns - frames.shape[-1], 0, rows - frames.shape[-2]))

    def encode(self, frames: Tensor, *, dropped: Tensor | None = None, cache: RingCache | None = None) -> Tensor:
        """Latents `[B, T, L, Z]` of uint8 frames `[B, T, 3, H, W]`.

        Patches that are `dropped`, bool `[B, T, P]`, are replaced by the learned embedding. With a cache, the frames
        follow those in it and are added to it: one frame at a time, or a whole context if it is empty.
        """
        self._check_frames(frames)
        B, T = frames.shape[:2]
        patch_BTPD = self._project_patches(self.standardise(self.pad(frames)))
        if dropped is not None:
            patch_BTPD = torch.where(dropped[..., None], self.masked_D.to(patch_BTPD.dtype), patch_BTPD)
        patch_BTPD = patch_BTPD + self.patch_position_PD
        latent_BTLD = self.latent_LD.expand(B, T, -1, -1)
        P = patch_BTPD.shape[2]
        x_BTSD, _ = self.encoder(
            torch.cat((patch_BTPD, latent_BTLD), dim=2), first=P, positions=self.encoder_positions, cache=cache
        )
        if cache is not None:
            cache.commit(T)
        z_BTLZ = torch.tanh(self.to_latent(x_BTSD[:, :, P:]).float())
        return (z_BTLZ - self.latent_mean) / self.latent_std

    def _check_frames(self, frames: Tensor) -> None:
        shape, (height, width) = list(frames.shape), self.frame
        if len(shape) != 5 or shape[2] != 3:
            raise UserError(f"frames must be uint8 [B, T, 3, {height}, {width}], got {shape}")
        if frames.shape[-2:] != self.frame:
            raise UserError(
                f"frames of {tuple(frames.shape[-2:])} pixels, the tokenizer was made for {self.frame}: resize them"
            )
        # Reading values makes the host wait for a GPU, but only for frames that should be uint8.
        if frames.is_floating_point() and not frames.is_meta and frames.numel() and float(frames.detach().max()) <= 1:
            raise UserError(f"frames must be uint8 from 0 to 255, got {frames.dtype} up to 1: multiply them by 255")

    def decode(self, latents: Tensor, *, cache: RingCache | None = None) -> Tensor:
        """Standardised frames `[B, T, 3, H, W]` (see `to_pixels`) of latents `[B, T, L, Z]`; cache as in `encode`."""
        L, Z = self.config.latents, self.config.channels
        if latents.ndim != 4 or latents.shape[2:] != (L, Z):
            raise UserError(f"latents must be float [B, T, {L}, {Z}], got {list(latents.shape)}")
        B, T = latents.shape[:2]
        z_BTLZ = latents * self.latent_std + self.latent_mean
        latent_BTLD = self.from_latent(z_BTLZ) + self.latent_position_LD
        readout_BTPD = self.readout_PD.expand(B, T, -1, -1)
        x_BTSD, _ = self.decoder(
            torch.cat((latent_BTLD, readout_BTPD), dim=2), first=L, positions=self.decoder_positions, cache=cache
        )
        if cache is not None:
            cache.commit(T)
        frame_BTCHW = self._draw_patches(x_BTSD[:, :, L:]).float()
        return frame_BTCHW[..., : self.frame[0], : self.frame[1]]

    # Since patches do not overlap, each convolution is one matrix product, which is many times as fast on CPUs.

    def _project_patches(self, frame_BTCHW: Tensor) -> Tensor:
        p = self.config.patch
        patch_BThwCpp = frame_BTCHW.unflatten(4, (-1, p)).unflatten(3, (-1, p)).permute(0, 1, 3, 5, 2, 4, 6)
        return F.linear(patch_BThwCpp.flatten(4).flatten(2, 3), self.patch_in.weight.flatten(1), self.patch_in.bias)

    def _draw_patches(self, patch_BTPD: Tensor) -> Tensor:
        p, weight, bias = self.config.patch, self.patch_out.weight, self.patch_out.bias
        assert bias is not None
        pixel_BTPi = F.linear(patch_BTPD, weight.flatten(1).T, bias.repeat_interleave(p * p))
        pixel_BThwCpp = pixel_BTPi.unflatten(3, (3, p, p)).unflatten(2, self.grid)
        return pixel_BThwCpp.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def encode_video(self, frames: Tensor, *, cache: RingCache | None = None) -> Tensor:
        """Latents of a video of any length, encoded frame by frame as while acting; see `encode`.

        With a cache (`encoder_cache`) the frames follow those in it.
        """
        cache = self.encoder_cache(frames.shape[0]) if cache is None else cache
        return torch.cat([self.encode(frame, cache=cache) for frame in frames.split(1, dim=1)], dim=1)

    def decode_video(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1], float32 `[B, T, 3, H, W]`, of a video of any length, decoded frame by frame."""
        cache = self.decoder_cache(latents.shape[0])
        frames = [self.decode(latent, cache=cache) for latent in latents.split(1, dim=1)]
        return self.to_pixels(torch.cat(frames, dim=1))

    def to_pixels(self, standardised: Tensor) -> Tensor:
        """Float32 pixels in [0, 1] of standardised frames `[..., 3, H, W]`."""
        return self.unstandardise(standardised).clamp(0, 1)

    def unstandardise(self, standardised: Tensor) -> Tensor:
        """Float32 pixels of standardised frames, not clamped; pixels of a real frame are in [0, 1]."""
        return standardised * self.pixel_std + self.pixel_mean

    def freeze_encoder(self) -> None:
        """Let only the decoder train, so that latents do not change."""
        self.requires_grad_(False)
        for trained in (self.from_latent, self.latent_position_LD, self.readout_PD, self.decoder, self.patch_out):
            trained.requires_grad_(True)

    def drop_patches(self, rows: int, frames: int, noise: Noise, most: float) -> Tensor:
        """bool `[B, T, P]`: per image, each patch is dropped with probability `p ~ U(0, most)` [P]."""
        patches = self.grid[0] * self.grid[1]
        return noise.uniform(rows, frames, patches) < noise.uniform(rows, frames, 1) * most


@torch.no_grad()
def _anchors(positions_PD: Tensor, latents: int) -> Tensor:
    """Initial latent tokens `[L, D]`: each is the sum of its own patches' positions, scaled to unit variance.

    So latents attend to their patches from the first step.
    """
    patches = len(positions_PD)
    owner_P = torch.arange(patches) * latents // patches
    sums_LD = torch.zeros(latents, positions_PD.shape[1]).index_add(0, owner_P, positions_PD.detach())
    own_L = torch.zeros(latents).index_add(0, owner_P, torch.ones(patches))
    return sums_LD / own_L.clamp(min=1).sqrt()[:, None]
