"""Measuring trained models on held-out episodes: reconstructions, closed-loop dreams, use of the actions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embody.agent import Agent, end_at_reward
from embody.config import Config
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    EpisodeSelection,
    Placement,
    Relabelling,
    batches,
)
from embody.data.goal import goal_of
from embody.dynamics import Dynamics
from embody.dynamics.shortcut import alternate_contexts, draw_levels, noise_to
from embody.imagination import Dream
from embody.metrics.rates import psnr
from embody.metrics.rewards import Returns, imagined_returns
from embody.metrics.rollouts import FrameMeasures, Rollouts
from embody.metrics.similarity import ssim
from embody.model import WorldAndAgent
from embody.nn.noise import GeneratorNoise
from embody.tokenizer import Tokenizer

__all__ = ["Dreams", "action_shuffle_ratios", "dream_held_out", "tokenizer_quality"]

_FRAMES = 128  # frames decoded at a time
_PASS = 1024  # frames in one pass of the dynamics, at most
_ENTIRE = 100  # frames; longer episodes are not encoded entirely, but in clips
_CLIP = 20  # frames of such a clip


@dataclass(frozen=True)
class Dreams:
    """Held-out clips, dreamt in closed loop from their context under the recorded actions."""

    rollouts: Rollouts  # N clips of `horizon` timesteps
    returns: Returns | None  # the returns after each context; None without an agent
    context: NDArray[np.uint8]  # [N, C, H, W, 3]
    actions: NDArray[np.int64]  # [N, C + horizon, A]


@torch.no_grad()
def tokenizer_quality(
    tokenizer: Tokenizer, datasets: Sequence[Dataset], frame_measures: FrameMeasures | None, episodes: int
) -> tuple[dict[str, Any], tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """PSNR, SSIM and the game's own measures of reconstructed validation episodes, and (original, reconstruction).

    Of each dataset, the first `episodes` validation episodes are used. From one of more than 100 frames, five evenly
    spaced clips of 20 frames are used. Both videos are uint8 `[N, H, W, 3]`.
    """
    originals, decoded = [], []
    for dataset in datasets:
        rows = dataset.episodes("validation")[:episodes]
        for episode, start, stop in [(row.id, *clip) for row in rows for clip in _clips(row.length)]:
            frames = dataset.frames(episode, start, stop)
            video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].to(tokenizer.masked_D.device)
            pixels = tokenizer.decode_video(tokenizer.encode_video(video))[0]
            originals.append(frames)
            decoded.append(_to_uint8(pixels))
    real, reconstructed = np.concatenate(originals), np.concatenate(decoded)
    error = float(((real / 255.0 - reconstructed / 255.0) ** 2).mean())
    values: dict[str, Any] = {
        "psnr_db": psnr(error),
        "ssim": float(ssim(reconstructed, real).mean()),
        "frames": len(real),
    }
    if frame_measures is not None:
        values |= frame_measures.of_reconstructions(reconstructed, real)
    return values, (real, reconstructed)


def _clips(length: int) -> list[tuple[int, int]]:
    """First and last (exclusive) timesteps of the clips that are encoded from an episode."""
    if length <= _ENTIRE:
        return [(0, length)]
    return [(start, start + _CLIP) for start in np.linspace(0, length - _CLIP, _ENTIRE // _CLIP).astype(int).tolist()]


@torch.no_grad()
def dream_held_out(
    config: Config,
    tokenizer: Tokenizer,
    model: Dynamics | WorldAndAgent,
    datasets: Sequence[Dataset],
    tokenizer_hash: str,
) -> Dreams:
    """Dream `evaluation.rollouts` validation clips: a real context, then recorded actions but no more real frames.

    Tasks are drawn uniformly, then the last timestep of the context, uniformly over all but the last of each episode. A
    dream may be longer than the world model's window: its cache then forgets the oldest frames. Without an agent no
    rewards are predicted. In multi-achievement mode, rewards are the first achievements of each task.
    """
    dynamics, agent = (model, None) if isinstance(model, Dynamics) else (model.dynamics, model.agent)
    settings = config.evaluation
    context, horizon = settings.context, settings.horizon
    clips = _held_out_clips(config, BatchShapes(settings.rollouts, context + horizon), after=horizon)
    pixels = next(batches(datasets, clips, seed=config.seed))
    latents = next(batches(datasets, replace(clips, tokenizer_hash=tokenizer_hash), seed=config.seed))
    latents = latents.to(dynamics.register_RD.device)
    assert pixels.frames is not None and latents.latents is not None
    noise = GeneratorNoise(torch.Generator(dynamics.register_RD.device).manual_seed(config.seed))
    k_sample, longest = config.sampling.k_sample, context + horizon
    dream = Dream(model, k_sample=k_sample, noise=noise, longest=longest)
    first, task = slice(0, context), latents.task
    goal = goal_of(config.agent.goal)
    seen = dream.reset(
        latents.latents[:, first],
        latents.actions[:, first],
        latents.is_first[:, first],
        goal.select_timesteps(task, first),
    )
    imagined = dream.imagine(latents.actions[:, context:])
    shape = latents.latents.shape
    all_latents = torch.cat((latents.latents[:, first], imagined.latents.view(shape[0], horizon, *shape[2:])), dim=1)
    video = np.concatenate([_to_uint8(tokenizer.decode_video(part)) for part in all_latents.split(_FRAMES)])
    real = pixels.frames.permute(0, 1, 3, 4, 2).numpy()
    rewards_real, predicted = pixels.rewards[:, context:], None
    tasks: tuple[str, ...] = ()
    if agent:
        rewards_real = goal.rewards_to_predict(pixels.rewards, task.cpu(), context)
        predicted = goal.predicted_rewards(imagined.reward, imagined.achieved).cpu().numpy()
        tasks = goal.task_names(datasets, task, config.agent.words)
    rollouts = Rollouts(
        context_last=real[:, context - 1],
        real=real[:, context:],
        imagined=video[:, context:],
        valid=pixels.mask[:, context:].numpy(),
        rewards_real=rewards_real.numpy(),
        rewards_predicted=predicted,
        tasks=tasks,
    )
    returns = None
    if agent:
        recorded = pixels.returns[:, context - 1].numpy()
        value, last = (_values(agent, features[:, -1]) for features in (seen, imagined.features))
        continues = imagined.continues
        if config.agent_objective.once:
            continues = end_at_reward(imagined.reward, continues)
        outcome = imagined.reward.cpu().numpy(), continues.cpu().numpy()
        gamma = config.imagination.gamma
        returns = Returns(recorded, imagined_returns(*outcome, last, rollouts.valid, gamma), value)
    return Dreams(rollouts, returns, real[:, first], pixels.actions.numpy())


def _values(agent: Agent, features: Tensor) -> NDArray[np.float32]:
    return agent.heads.value_bins.decode(agent.heads(features).value).cpu().numpy()


@torch.no_grad()
def action_shuffle_ratios(
    config: Config, dynamics: Dynamics, datasets: Sequence[Dataset], tokenizer_hash: str
) -> dict[str, float]:
    """Flow loss with actions shuffled over the batch, divided by that with the true ones. Near 1, actions are ignored.

    Both losses have the same noise and signal levels (d = d_min, tau uniform on its grid), no weights, and count only
    timesteps with an action. `action_shuffle_ratio` has signal levels as in training: if every other frame has the
    context level, only the frames between them count. `action_shuffle_ratio_noised` draws a level for each frame.
    """
    of_noised = _action_shuffle_ratio(config, dynamics, datasets, tokenizer_hash, held=False)
    held = config.dynamics_objective.contexts == "alternate"
    as_trained = _action_shuffle_ratio(config, dynamics, datasets, tokenizer_hash, held=True) if held else of_noised
    return {"action_shuffle_ratio": as_trained, "action_shuffle_ratio_noised": of_noised}


def _action_shuffle_ratio(
    config: Config, dynamics: Dynamics, datasets: Sequence[Dataset], tokenizer_hash: str, held: bool
) -> float:
    rows = min(256, config.evaluation.rollouts)
    clips = _held_out_clips(config, BatchShapes(rows, config.imagination.context + 2))
    device = dynamics.register_RD.device
    batch = next(batches(datasets, replace(clips, tokenizer_hash=tokenizer_hash), seed=config.seed)).to(device)
    assert batch.latents is not None
    generator = torch.Generator(device).manual_seed(config.seed)
    z = dynamics.pack(batch.latents)
    noise = GeneratorNoise(generator)
    levels = draw_levels(batch.rows, batch.length, dynamics.config.k_max, False, noise)
    counted = batch.mask & ~batch.is_first
    if held:
        levels = alternate_contexts(levels, dynamics.context_level, 1 / dynamics.config.k_max)
        counted[:, ::2] = False
    noised = noise_to(levels.tau, z, noise.normal(*z.shape))
    timesteps = counted.flatten().nonzero()[:, 0]
    shuffled = batch.actions.flatten(0, 1).clone()
    shuffled[timesteps] = shuffled[timesteps[torch.randperm(len(timesteps), generator=generator, device=device)]]

    def loss(actions: Tensor) -> float:
        inputs = (noised, levels.tau, levels.d, actions, batch.is_first)
        parts = zip(*(x.split(max(1, _PASS // batch.length)) for x in inputs), strict=True)
        clean = torch.cat([dynamics(*part).clean for part in parts])
        return float((clean - z).square().mean(dim=(2, 3))[counted].mean())

    return loss(shuffled.view_as(batch.actions)) / loss(batch.actions)


def _held_out_clips(config: Config, shapes: BatchShapes, after: int = 0) -> ClipSpec:
    """The spec of validation clips with frames; with `after`, of contexts followed by `after` timesteps."""
    left_pad = config.imagination.context - 1
    return ClipSpec(
        EpisodeSelection("validation", labelled_only=True),
        shapes,
        placement=Placement(left_pad, contexts=after > 0, after=after),
        relabelling=Relabelling(
            config.imagination.gamma, config.agent_objective.once, config.agent.goal, config.agent.words
        ),
    )


def _to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    return (pixels * 255).round().byte().movedim(-3, -1).cpu().numpy()
