"""Tokenizer: what each token may see, history, statistics and the masked loss."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embody.config import Config, TokenizerConfig, TokenizerObjective
from embody.data import open_datasets
from embody.logger_manager import LoggerManager
from embody.nn import transformer
from embody.nn.noise import GeneratorNoise
from embody.nn.rope import rotary_angles
from embody.saving.tensors import load_tensors
from embody.tokenizer import Lpips, Tokenizer, TokenizerLoss
from embody.tokenizer.loss import random_crop
from embody.trainer import Trainer
from embody.training.loop import train
from embody.training.tokenizer import DecoderStage, TokenizerStage
from tests.tiny_models import (
    CONFIG,
    FRAME,
    ONE_TIME_LAYER,
    PIXELS,
    TOKENIZER,
    make_dynamics,
    make_frames,
    make_lpips_weights,
    make_tokenizer,
    open_layers,
    seeded,
)

CONTEXT = TOKENIZER.context
PATCHES = 6
NONE_DROPPED = dataclasses.replace(PIXELS, mask_max=0.0)


def drop(*dropped: tuple[int, int, int]) -> Tensor:
    """bool `[2, 3, P]`: the listed (row, frame, patch) are dropped."""
    mask = torch.zeros(2, 3, PATCHES, dtype=torch.bool)
    for place in dropped:
        mask[place] = True
    return mask


def pixels_of(mask: Tensor) -> Tensor:
    """bool `[B, T, 1, H, W]` of patches `[B, T, P]`."""
    grid = mask.unflatten(-1, (2, 3)).repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1)
    return grid[:, :, None]


# --- what is seen ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_dropped_patches_carry_no_pixel() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(2, 3)
    dropped = drop((0, 0, 1), (0, 0, 5), (0, 2, 0), (1, 1, 3))
    hidden = pixels_of(dropped)
    latents = tokenizer.encode(frames, dropped=dropped)
    others = torch.where(hidden, make_frames(2, 3, seed=1), frames)
    assert torch.equal(tokenizer.encode(others, dropped=dropped), latents)
    seen = torch.where(hidden, frames, make_frames(2, 3, seed=1))
    assert ((tokenizer.encode(seen, dropped=dropped) - latents).abs().amax(dim=(2, 3)) > 1e-3).all()
    assert ((tokenizer.encode(frames) - latents)[dropped.any(dim=-1)].abs() > 1e-3).any(dim=2).any(dim=1).all()


def test_gradient_reaches_seen_pixels_only() -> None:
    tokenizer, pixels = make_tokenizer(), make_frames(2, 3).float().requires_grad_()
    dropped = drop((0, 0, 1), (0, 2, 0), (1, 1, 3))
    latents = tokenizer.encode(pixels, dropped=dropped)
    of_pixels, of_embedding = torch.autograd.grad(latents.square().sum(), (pixels, tokenizer.masked_D))
    hidden = pixels_of(dropped).expand_as(pixels)
    assert not of_pixels[hidden].any() and of_embedding.any()
    assert (of_pixels[~hidden] != 0).float().mean() > 0.99


def test_no_latent_depends_on_a_later_frame() -> None:
    tokenizer, pixels = make_tokenizer(), make_frames(2, 3).float().requires_grad_()
    latents = tokenizer.encode(pixels)
    (gradient,) = torch.autograd.grad(latents[0, 1].square().sum(), pixels)
    assert gradient[0, 0].any() and gradient[0, 1].any()
    assert not gradient[0, 2].any() and not gradient[1].any()


def test_no_decoded_frame_depends_on_a_later_latent() -> None:
    tokenizer, latents = make_tokenizer(), torch.randn(2, 3, 4, 4, generator=seeded(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(tokenizer.decode(latents)[0, 1].square().sum(), latents)
    assert gradient[0, 0].any() and gradient[0, 1].any()
    assert not gradient[0, 2].any() and not gradient[1].any()


def outputs_of(tokenizer: Tokenizer, part: str) -> list[Tensor]:
    """Where the output tokens `[B, T, S, D]` of the encoder or decoder will be."""
    seen: list[Tensor] = []
    getattr(tokenizer, part).register_forward_hook(lambda _, __, output: seen.append(output[0]))
    return seen


def test_patch_tokens_do_not_see_latent_tokens() -> None:
    tokenizer = make_tokenizer()
    seen = outputs_of(tokenizer, "encoder")
    tokenizer.encode(make_frames(2, 3))
    patches, latents = seen[0].split([PATCHES, TOKENIZER.latents], dim=2)
    (back,) = torch.autograd.grad(patches.square().sum(), tokenizer.latent_LD, retain_graph=True)
    assert not back.any()
    (forth,) = torch.autograd.grad(latents.square().sum(), tokenizer.patch_position_PD)
    assert (forth.abs().sum(dim=-1) > 0).all()


def test_latent_tokens_do_not_see_patch_read_outs() -> None:
    tokenizer = make_tokenizer()
    seen = outputs_of(tokenizer, "decoder")
    tokenizer.decode(torch.randn(2, 3, 4, 4, generator=seeded(0)))
    latents, readouts = seen[0].split([TOKENIZER.latents, PATCHES], dim=2)
    (back,) = torch.autograd.grad(latents.square().sum(), tokenizer.readout_PD, retain_graph=True)
    assert not back.any()
    (forth,) = torch.autograd.grad(readouts.square().sum(), tokenizer.latent_position_LD)
    assert (forth.abs().sum(dim=-1) > 0).all()


def test_patches_go_in_and_come_out_at_their_place() -> None:
    tokenizer = make_tokenizer()
    for parameter in (*tokenizer.encoder.parameters(), *tokenizer.decoder.parameters()):
        if parameter.ndim == 2:
            torch.nn.init.zeros_(parameter)  # tokens stay what went in
    seen = outputs_of(tokenizer, "encoder")
    frames = make_frames(1, 1)
    changed = frames.clone()
    changed[..., 0:4, 8:12] += 1  # the third of 2 x 3 patches
    with torch.no_grad():
        tokenizer.encode(frames)
        tokenizer.encode(changed)
        before = tokenizer.decode(torch.zeros(1, 1, 4, 4))
        tokenizer.readout_PD[2] += 1
        after = tokenizer.decode(torch.zeros(1, 1, 4, 4))
    assert torch.nonzero((seen[0] != seen[1])[0, 0].any(dim=-1)).tolist() == [[2]]
    touched = (after != before)[0, 0].any(dim=0)
    assert touched[:4, 8:].all() and not touched[4:].any() and not touched[:, :8].any()


def test_latents_stand_where_their_patches_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """For RoPE: 4 latents of 1 1/2 patches each, at the middle of these, between two places of patches."""
    tokenizer, asked = make_tokenizer(), []
    monkeypatch.setattr(
        transformer, "rotary_angles", lambda at, *rest: asked.append(at.tolist()) or rotary_angles(at, *rest)
    )
    with torch.no_grad():
        tokenizer.decode(tokenizer.encode(make_frames(1, 2)))
    patches, latents, times = [0, 1, 2, 3, 4, 5], [0.25, 1.75, 3.25, 4.75], [0, 1]
    assert asked == [patches + latents, times, latents + patches, times]
    paper = TokenizerConfig(patch=8, latents=12)  # 36 patches, three a latent
    with torch.device("meta"):
        assert Tokenizer(paper, (48, 48)).encoder_positions.shape == (48,)
    assert Tokenizer(paper, (48, 48)).encoder_positions[36:].tolist() == [1 + 3 * n for n in range(12)]


@torch.no_grad()
def test_latents_start_as_the_positions_of_their_patches() -> None:
    tokenizer = Tokenizer(TokenizerConfig(patch=8, latents=12), (48, 48))
    for latents, patches in (
        (tokenizer.latent_LD, tokenizer.patch_position_PD),
        (tokenizer.latent_position_LD, tokenizer.readout_PD),
    ):
        expected = torch.stack([patches[3 * n : 3 * n + 3].sum(dim=0) / 3**0.5 for n in range(12)])
        torch.testing.assert_close(latents, expected)
        assert float(latents.std()) == pytest.approx(1.0, abs=0.1)
    few = Tokenizer(TOKENIZER, FRAME)  # 6 patches, 4 latents: the first and the third have two
    owned = [[0, 1], [2], [3, 4], [5]]
    expected = torch.stack([few.patch_position_PD[own].sum(dim=0) / len(own) ** 0.5 for own in owned])
    torch.testing.assert_close(few.latent_LD, expected)
    assert few.latent_LD.requires_grad and few.latent_LD.data_ptr() != few.patch_position_PD.data_ptr()


@torch.no_grad()
def test_queries_of_the_tokenizer_start_as_their_keys() -> None:
    """So tokens first attend to those like themselves; the dynamics' do not."""
    tokenizer = Tokenizer(TOKENIZER, FRAME)
    for trunk in (tokenizer.encoder, tokenizer.decoder):
        for block in trunk.blocks:
            q, k, v = block.attention.qkv.weight.unflatten(0, (4 + 2 + 2, 4)).split((4, 2, 2))
            for head in range(4):
                assert torch.equal(q[head], k[head // 2]) and not torch.equal(q[head], k[1 - head // 2])
            assert not torch.equal(v, k)
    x = torch.randn(1, 10, 16, generator=seeded(0))
    angles = (torch.ones(10, 2), torch.zeros(10, 2))
    q, k, _ = tokenizer.encoder.blocks[0].attention.project(x, angles)
    assert (q[0, 0] @ k[0, 0].T).argmax(dim=-1).tolist() == list(range(10))
    plain = make_dynamics().trunk.blocks[0].attention.qkv.weight.unflatten(0, (8, 4))
    assert not torch.equal(plain[0], plain[4])


# --- history --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_frame_by_frame_equals_at_once_inside_the_context() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(2, CONTEXT)
    latents = tokenizer.encode(frames)
    torch.testing.assert_close(tokenizer.encode_video(frames), latents, atol=1e-5, rtol=1e-5)
    pixels = tokenizer.to_pixels(tokenizer.decode(latents))
    torch.testing.assert_close(tokenizer.decode_video(latents), pixels, atol=1e-5, rtol=1e-5)
    # The history was kept: a context at once, then a frame more.
    cache = tokenizer.encoder_cache(2)
    first = tokenizer.encode(frames[:, :2], cache=cache)
    torch.testing.assert_close(first, latents[:, :2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokenizer.encode(frames[:, 2:], cache=cache), latents[:, 2:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_frame_sees_as_many_frames_as_the_context() -> None:
    trunk = dataclasses.replace(ONE_TIME_LAYER, depth=2, pattern="TS")
    tokenizer = make_tokenizer(dataclasses.replace(TOKENIZER, encoder=trunk, decoder=trunk))
    frames, length = make_frames(2, 7), 7
    latents = tokenizer.encode_video(frames)
    pixels = tokenizer.decode_video(latents)
    for t in range(length):
        window = slice(max(0, t - CONTEXT + 1), t + 1)
        torch.testing.assert_close(latents[:, t], tokenizer.encode(frames[:, window])[:, -1], atol=1e-5, rtol=1e-5)
        decoded = tokenizer.to_pixels(tokenizer.decode(latents[:, window]))[:, -1]
        torch.testing.assert_close(pixels[:, t], decoded, atol=1e-5, rtol=1e-5)
    changed = frames.clone()
    changed[:, 0] = 0
    difference = (tokenizer.encode_video(changed) - latents).abs().amax(dim=(0, 2, 3))
    assert (difference[:CONTEXT] > 1e-3).all() and not difference[CONTEXT:].any()


@torch.no_grad()
def test_a_decoder_without_time_layers_decodes_each_frame_alone() -> None:
    decoder = dataclasses.replace(ONE_TIME_LAYER, depth=1, pattern="S")
    tokenizer, latents = (
        make_tokenizer(dataclasses.replace(TOKENIZER, decoder=decoder)),
        torch.randn(2, 7, 4, 4, generator=seeded(0)),
    )
    pixels = tokenizer.decode_video(latents)
    torch.testing.assert_close(pixels, tokenizer.to_pixels(tokenizer.decode(latents)), atol=1e-5, rtol=1e-5)
    alone = tokenizer.to_pixels(tokenizer.decode(latents[:, 3:4]))
    torch.testing.assert_close(pixels[:, 3:4], alone, atol=1e-5, rtol=1e-5)


# --- statistics -----------------------------------------------------------------------------------------------------


def test_latents_are_standardised_by_stored_statistics() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(11, 5)  # more rows than are encoded side by side
    with torch.no_grad():
        reconstruction = tokenizer.decode(tokenizer.encode(frames[:, :3]))
        assert tokenizer.encode(frames[:, :3]).std(dim=(0, 1, 2)).min() < 0.9
    tokenizer.set_latent_statistics(frames)
    with torch.no_grad():
        latents = tokenizer.encode_video(frames)
        torch.testing.assert_close(latents.mean(dim=(0, 1, 2)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(latents.std(dim=(0, 1, 2)), torch.ones(4), atol=1e-4, rtol=0)
        again = tokenizer.decode(tokenizer.encode(frames[:, :3]))  # the decoder undoes it
    torch.testing.assert_close(again, reconstruction, atol=1e-5, rtol=1e-5)
    statistics = tokenizer.latent_mean.clone()
    tokenizer.set_latent_statistics(frames)  # from the start, not on top of the last ones
    torch.testing.assert_close(tokenizer.latent_mean, statistics)
    assert not tokenizer.latent_mean.requires_grad and not tokenizer.latent_std.requires_grad


@torch.no_grad()
def test_latents_are_bounded_before_standardisation() -> None:
    tokenizer = make_tokenizer()
    tokenizer.to_latent.weight *= 20
    latents = tokenizer.encode(make_frames(2, 3))
    assert 0.9 < latents.abs().max() <= 1
    tokenizer.latent_mean.fill_(0.5)
    tokenizer.latent_std.fill_(0.25)
    torch.testing.assert_close(tokenizer.encode(make_frames(2, 3)), (latents - 0.5) / 0.25)


def test_pixels_are_standardised_per_colour_and_back() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(4, 3)
    frames[:, :, 1] //= 4
    tokenizer.set_pixel_statistics(frames)
    standardised = tokenizer.standardise(frames)
    torch.testing.assert_close(standardised.mean(dim=(0, 1, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(dim=(0, 1, 3, 4)), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokenizer.to_pixels(standardised), frames / 255, atol=1e-6, rtol=0)
    assert tokenizer.to_pixels(100 * standardised).aminmax() == (torch.tensor(0.0), torch.tensor(1.0))


# --- loss -----------------------------------------------------------------------------------------------------------


def test_each_image_draws_its_own_drop_probability() -> None:
    tokenizer = make_tokenizer()
    dropped = tokenizer.drop_patches(10_000, 2, GeneratorNoise(seeded(0)), 0.9)
    assert dropped.shape == (10_000, 2, PATCHES) and dropped.dtype == torch.bool
    share = dropped.float().mean(dim=-1)
    assert float(share.mean()) == pytest.approx(0.45, abs=0.01)  # p ~ U(0, 0.9)
    # Var = Var p + E[p (1 - p)] / P = 0.0675 + 0.18 / 6; one p for all images would give 0.041, one a patch 0.041 too
    assert float(share.var()) == pytest.approx(0.0975, abs=0.004)
    assert abs(float(torch.cov(share.T)[0, 1])) < 0.004  # one p a row would give 0.0675
    assert float(dropped.float().mean(dim=(0, 1)).std()) < 0.01
    # Inside an image patches fall independently: for two of them, P(both) = E p^2 = 0.27
    assert float((dropped[..., 0] & dropped[..., 4]).float().mean()) == pytest.approx(0.27, abs=0.01)
    assert not tokenizer.drop_patches(50, 2, GeneratorNoise(seeded(0)), 0.0).any()


def test_loss_by_hand() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = TokenizerLoss(NONE_DROPPED)
    loss, metrics = losses(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    with torch.no_grad():
        difference = tokenizer.decode(tokenizer.encode(frames)) - (frames / 255 - 0.5) / 0.25
    expected = torch.cat((difference[0, :2], difference[1])).double().square().mean()
    torch.testing.assert_close(metrics["mse"].double(), expected, atol=1e-6, rtol=1e-5)
    assert loss.item() == pytest.approx(1.0)  # the first loss is its own root mean square
    losses.mse_rms.mean_square.fill_(4.0)
    losses.mse_rms.weight.fill_(1.0)
    loss, _ = losses.eval()(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    assert loss.item() == pytest.approx(float(expected) / 2)


def test_loss_hides_patches_and_masks_padding() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = TokenizerLoss(PIXELS)
    loss, metrics = losses(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    loss.backward()
    assert tokenizer.masked_D.grad is not None and tokenizer.masked_D.grad.any()
    _, other_draw = losses(tokenizer, frames, mask, GeneratorNoise(seeded(1)))
    assert float(other_draw["mse"]) != float(metrics["mse"])
    padded = frames.clone()
    padded[0, 2] = 255 - padded[0, 2]
    _, same = losses(tokenizer, padded, mask, GeneratorNoise(seeded(0)))
    assert torch.equal(same["mse"], metrics["mse"])


def test_loss_with_lpips_by_hand() -> None:
    objective = TokenizerObjective(mask_max=0.0, lpips="alex", lpips_weight=0.3)
    tokenizer = make_tokenizer(dataclasses.replace(TOKENIZER, patch=16), (32, 36))
    lpips = Lpips("alex", make_lpips_weights("alex"))
    with torch.no_grad():
        tokenizer.patch_out.weight *= 100  # colours out of range too
    frames = torch.randint(0, 256, (2, 3, 3, 32, 36), generator=seeded(0), dtype=torch.uint8)
    tokenizer.set_pixel_statistics(frames // 2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = TokenizerLoss(objective, lpips)
    losses.mse_rms.mean_square.fill_(4.0)
    losses.lpips_rms.mean_square.fill_(0.25)
    for rms in (losses.mse_rms, losses.lpips_rms):
        rms.weight.fill_(1.0)
    loss, metrics = losses.eval()(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    with torch.no_grad():
        decoded = tokenizer.decode(tokenizer.encode(frames))
        mse = (decoded - tokenizer.standardise(frames)).square()[mask].mean()
        pixels = decoded * tokenizer.pixel_std + tokenizer.pixel_mean  # not clamped: what is out of range is felt
        distance = lpips(2 * pixels[mask] - 1, 2 * (frames[mask] / 255) - 1).mean()
    assert float(pixels.min()) < -0.1 and float(distance) > 0.1
    assert float(metrics["mse"]) == pytest.approx(float(mse), rel=1e-4)
    assert float(metrics["lpips"]) == pytest.approx(float(distance), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(float(mse) / 2 + 0.3 * float(distance) / 0.5, rel=1e-4)
    loss, _ = TokenizerLoss(objective, lpips)(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    assert float(loss.detach()) == pytest.approx(1.3)  # each term is its own root mean square at first
    assert not any(name.startswith("lpips.") for name in losses.state_dict())
    assert TokenizerObjective().lpips == "vgg" and TokenizerObjective().lpips_weight == 0.2  # the paper's


def test_lpips_trains_the_decoder() -> None:
    """Without the squared error, the distance falls."""
    tokenizer, lpips = (
        make_tokenizer(dataclasses.replace(TOKENIZER, patch=16), (32, 36)),
        Lpips("alex", make_lpips_weights("alex")),
    )
    frames = torch.randint(0, 256, (1, 1, 3, 32, 36), generator=seeded(0), dtype=torch.uint8)
    mask, losses = torch.ones(1, 1), TokenizerLoss(PIXELS, lpips)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    losses.mse_rms.register_forward_hook(lambda *_: torch.zeros(()))
    distances = []
    for _ in range(5):
        loss, metrics = losses(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(float(metrics["lpips"]))
    assert distances[-1] < 0.9 * distances[0], distances


# --- padding and cropping -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_frames_are_padded_on_the_way_in_and_cropped_on_the_way_out() -> None:
    whole = make_tokenizer()
    frames = make_frames(2, 3)
    cut, black = frames[..., :7, :10], frames.clone()
    black[..., 7:, :], black[..., 10:] = 0, 0
    smaller = make_tokenizer(frame=(7, 10))
    smaller.load_state_dict(whole.state_dict())
    assert smaller.grid == whole.grid == (2, 3)
    assert torch.equal(smaller.pad(cut), black)
    assert torch.equal(smaller.pad(cut)[..., :7, :10], cut)
    latents = smaller.encode(cut)
    assert torch.equal(latents, whole.encode(black))
    assert not torch.equal(latents, whole.encode(frames))
    assert torch.equal(smaller.decode(latents), whole.decode(latents)[..., :7, :10])
    assert smaller.decode_video(latents).shape == (2, 3, 3, 7, 10)
    torch.testing.assert_close(smaller.to_pixels(smaller.standardise(cut)), cut / 255, atol=1e-6, rtol=0)
    loss, metrics = TokenizerLoss(PIXELS)(smaller, cut, torch.ones(2, 3), GeneratorNoise(seeded(0)))
    dropped = smaller.drop_patches(2, 3, GeneratorNoise(seeded(0)), PIXELS.mask_max)
    error = smaller.decode(smaller.encode(cut, dropped=dropped)) - (cut / 255 - 0.5) / 0.25
    assert float(metrics["mse"]) == pytest.approx(float(error.square().mean()), rel=1e-4)  # of the frame's own pixels
    for other in (frames, cut[..., :6, :]):  # else cropped, or padded further, without a word
        with pytest.raises(ValueError, match=r"frames of \(\d, \d+\) pixels, the tokenizer was made for \(7, 10\)"):
            smaller.encode(other)


def test_the_grid_of_patches() -> None:
    assert TokenizerConfig(patch=16).grid((360, 640)) == (23, 40)
    assert TokenizerConfig(patch=16, padded=(384, 640)).grid((360, 640)) == (24, 40)  # the paper's: 960 tokens
    tokenizer = make_tokenizer(dataclasses.replace(TOKENIZER, padded=(12, 0)))
    assert tokenizer.grid == (3, 3) and tokenizer.pad(make_frames(1, 1)).shape == (1, 1, 3, 12, 12)
    assert tokenizer.decode(tokenizer.encode(make_frames(1, 1))).shape == (1, 1, 3, 8, 12)
    for padded in ((4, 0), (10, 0), (0, 8)):
        with pytest.raises(ValueError, match="a multiple of tokenizer.patch 4 that is at least"):
            dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(TOKENIZER, padded=padded))
    with pytest.raises(ValueError, match="lpips vgg needs frames of 32x32 or more, not 8x12: set lpips to none"):
        dataclasses.replace(CONFIG, tokenizer_objective=TokenizerObjective(lpips="vgg"))


def test_each_video_is_cropped_at_one_random_place() -> None:
    frames = 1 + make_frames(400, 2) // 2  # padding alone is 0
    crops = random_crop(frames, 2, GeneratorNoise(seeded(0)))
    assert crops.shape == frames.shape and crops.dtype == torch.uint8
    padded = np.pad(frames.numpy(), ((0, 0), (0, 0), (0, 0), (2, 2), (2, 2)))
    count = np.zeros((5, 5), int)
    for video, crop in zip(padded, crops.numpy(), strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if np.array_equal(video[:, :, y : y + 8, x : x + 12], crop)]
        assert len(found) == 1  # the same for both frames and all colours
        count[found[0]] += 1
    assert count.sum() == 400 and count.min() > 4 and count.max() < 32  # 16 +- 4 each


def test_random_crops_are_input_and_target() -> None:
    frames, mask = make_frames(4, 3), torch.ones(4, 3)
    tokenizer, moving = make_tokenizer(), dataclasses.replace(NONE_DROPPED, random_crop=2)
    _, cropped = TokenizerLoss(moving)(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    _, expected = TokenizerLoss(NONE_DROPPED)(
        tokenizer, random_crop(frames, 2, GeneratorNoise(seeded(0))), mask, GeneratorNoise(seeded(0))
    )
    _, whole = TokenizerLoss(NONE_DROPPED)(tokenizer, frames, mask, GeneratorNoise(seeded(0)))
    assert torch.equal(cropped["mse"], expected["mse"]) and not torch.equal(cropped["mse"], whole["mse"])


# --- the decoder's finetune -----------------------------------------------------------------------------------------

DECODER = ("from_latent.", "latent_position_LD", "readout_PD", "decoder.", "patch_out.")


def with_decoder_share(config: Config, share: float) -> Config:
    objective = dataclasses.replace(config.tokenizer_objective, decoder_share=share)
    stage = dataclasses.replace(config.train_tokenizer, epochs=2.5)
    return dataclasses.replace(config, tokenizer_objective=objective, train_tokenizer=stage)


def test_masking_can_be_less_than_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, frames, mask = make_tokenizer(), make_frames(2, 3), torch.ones(2, 3)
    assert float(tokenizer.drop_patches(10_000, 2, GeneratorNoise(seeded(0)), 0.45).float().mean()) == pytest.approx(
        0.225, abs=0.01
    )
    most, drop_patches = [], tokenizer.drop_patches
    monkeypatch.setattr(tokenizer, "drop_patches", lambda *call: most.append(call[3]) or drop_patches(*call))
    for masking in (1.0, 0.5, 0.0):
        _, metrics = TokenizerLoss(PIXELS)(tokenizer, frames, mask, GeneratorNoise(seeded(0)), masking)
    assert most == pytest.approx([0.9, 0.45, 0.0])
    assert torch.equal(
        metrics["mse"], TokenizerLoss(NONE_DROPPED)(tokenizer, frames, mask, GeneratorNoise(seeded(0)))[1]["mse"]
    )


def test_the_decoder_alone_is_finetuned(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_decoder_share(config, 0.5)
    datasets = open_datasets(config)
    before = TokenizerStage(config, datasets)
    whole = TokenizerStage(with_decoder_share(config, 0.0), datasets)
    assert before.steps + before.decoder_steps == whole.steps and abs(before.steps - before.decoder_steps) <= 1
    open_layers(before.model)
    before.model.set_latent_statistics(before.sample_frames())
    state = {name: tensor.clone() for name, tensor in before.model.state_dict().items()}
    frames = before.sample_frames()[:4]
    with torch.no_grad():  # as latents are made
        latents = before.model.encode_video(frames)
    most, drop_patches = [], before.model.drop_patches
    monkeypatch.setattr(before.model, "drop_patches", lambda *call: most.append(call[3]) or drop_patches(*call))
    stage = DecoderStage(before)
    first, wanted = next(iter(stage.batches(0))).frames, next(iter(whole.batches(before.steps))).frames
    assert torch.equal(first, wanted)  # the data goes on where the first part ended
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "finetune")
    train(stage, checkpoint=tmp_path / "c.safetensors", recipe={}, logger=logger, precision="float32", seed=0)
    for name, tensor in stage.model.state_dict().items():
        assert torch.equal(tensor, state[name]) != name.startswith(DECODER), name
    with torch.no_grad():
        assert torch.equal(stage.model.encode_video(frames), latents)
    saved = load_tensors(tmp_path / "c.safetensors")[0]  # neither do the weights before averaging differ
    assert all(torch.equal(saved[f"model.{name}"], state[name]) for name in state if not name.startswith(DECODER))
    steps = stage.steps
    assert steps >= 8
    assert most == pytest.approx([0.9 * max(0, 1 - 2 * step / steps) for step in range(steps)]) and most[-1] == 0


def test_a_finetune_that_is_interrupted_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_decoder_share(config, 0.5)
    whole = dataclasses.replace(config, name="whole")
    Trainer(config=whole).train_tokenizer()
    loss, calls = DecoderStage.loss, []

    def interrupted(self: DecoderStage, *arguments: Any) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderStage, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config=config).train_tokenizer()
    assert not config.weights("tokenizer").exists()
    assert load_tensors(config.checkpoint("tokenizer_decoder"))[1]["step"] == 2
    Trainer(config=config).train_tokenizer()
    assert config.weights("tokenizer").read_bytes() == whole.weights("tokenizer").read_bytes()
    assert list(config.checkpoint("tokenizer").parent.iterdir()) == [config.finished_state("tokenizer")]
