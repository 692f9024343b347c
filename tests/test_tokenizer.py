"""Tokenizer: what each token may see, history, statistics and the masked loss."""

import dataclasses

import pytest
import torch
from tiny_models import ONE_TIME_LAYER, TOKENIZER, make_frames, make_tokenizer, seeded
from torch import Tensor

from embody.tokenizer import Tokenizer, TokenizerLoss

CONTEXT = TOKENIZER.context
PATCHES = 6


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
    tokenizer, frames = make_tokenizer(), make_frames(8, 5)
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
    dropped = tokenizer.drop_patches(10_000, 2, seeded(0))
    assert dropped.shape == (10_000, 2, PATCHES) and dropped.dtype == torch.bool
    share = dropped.float().mean(dim=-1)
    assert float(share.mean()) == pytest.approx(0.45, abs=0.01)  # p ~ U(0, 0.9)
    # Var = Var p + E[p (1 - p)] / P = 0.0675 + 0.18 / 6; one p for all images would give 0.041, one a patch 0.041 too
    assert float(share.var()) == pytest.approx(0.0975, abs=0.004)
    assert abs(float(torch.cov(share.T)[0, 1])) < 0.004  # one p a row would give 0.0675
    assert float(dropped.float().mean(dim=(0, 1)).std()) < 0.01
    # Inside an image patches fall independently: for two of them, P(both) = E p^2 = 0.27
    assert float((dropped[..., 0] & dropped[..., 4]).float().mean()) == pytest.approx(0.27, abs=0.01)
    never = make_tokenizer(dataclasses.replace(TOKENIZER, mask_max=0.0))
    assert not never.drop_patches(50, 2, seeded(0)).any()


def test_loss_by_hand() -> None:
    tokenizer, frames = make_tokenizer(dataclasses.replace(TOKENIZER, mask_max=0.0)), make_frames(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = TokenizerLoss()
    loss, metrics = losses(tokenizer, frames, mask, seeded(0))
    with torch.no_grad():
        difference = tokenizer.decode(tokenizer.encode(frames)) - (frames / 255 - 0.5) / 0.25
    expected = torch.cat((difference[0, :2], difference[1])).double().square().mean()
    torch.testing.assert_close(metrics["mse"].double(), expected, atol=1e-6, rtol=1e-5)
    assert loss.item() == pytest.approx(1.0)  # the first loss is its own root mean square
    losses.mse_rms.mean_square.fill_(4.0)
    losses.mse_rms.weight.fill_(1.0)
    loss, _ = losses.eval()(tokenizer, frames, mask, seeded(0))
    assert loss.item() == pytest.approx(float(expected) / 2)


def test_loss_hides_patches_and_masks_padding() -> None:
    tokenizer, frames = make_tokenizer(), make_frames(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = TokenizerLoss()
    loss, metrics = losses(tokenizer, frames, mask, seeded(0))
    loss.backward()
    assert tokenizer.masked_D.grad is not None and tokenizer.masked_D.grad.any()
    _, other_draw = losses(tokenizer, frames, mask, seeded(1))
    assert float(other_draw["mse"]) != float(metrics["mse"])
    padded = frames.clone()
    padded[0, 2] = 255 - padded[0, 2]
    _, same = losses(tokenizer, padded, mask, seeded(0))
    assert torch.equal(same["mse"], metrics["mse"])
