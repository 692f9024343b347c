"""Shortcut forcing (Dreamer 4, equations 6 and 7): a signal level for each frame, bootstrap targets in v-space, loss in
x-space.

    z~ = (1 - tau) noise + tau z          z^ = f(z~, tau, d, a)
    b'  = (f(z~, tau, d/2, a) - z~) / (1 - tau)             z' = z~ + b' d/2
    b'' = (f(z', tau + d/2, d/2, a) - z') / (1 - (tau + d/2))
    loss = |z^ - z|^2                                                       if d = d_min
           (1 - tau)^2 |(z^ - z~) / (1 - tau) - stopgrad(b' + b'') / 2|^2   otherwise
    weighted by w(tau) = 0.9 tau + 0.1

Options change this: `loss_space="v"` divides the loss by (1 - tau)^2; `step_draw="partial"` (the default) draws d >
d_min only in the bootstrap rows, so that the other rows need no teacher passes; `contexts="alternate"`, `tau_power` and
`ramp=False` bring training closer to what rollouts of small models meet. `DynamicsConfig.predict` chooses the output.

Legend: B rows, T frames, L spatial tokens, Z channels.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embody.config import DynamicsObjective
from embody.data.sampling.batch import Batch
from embody.dynamics.model import Dynamics
from embody.nn.masked_mean import Reduce, one_process
from embody.nn.noise import Group, Noise
from embody.nn.running_rms import RunningRms

__all__ = [
    "Levels",
    "ShortcutLoss",
    "bootstrap_velocity",
    "draw_levels",
    "alternate_contexts",
    "noise_to",
    "ramp_weight",
]


@dataclass(frozen=True)
class Levels:
    """A signal level and a step size for each frame."""

    tau: Tensor  # float32 [B, T], on the grid of d: {0, d, ..., 1 - d}
    d: Tensor  # float32 [B, T], powers of 1/2

    def of(self, rows: slice) -> "Levels":
        """The levels of some rows."""
        return Levels(self.tau[rows], self.d[rows])


def noise_to(tau: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """`z~ = (1 - tau) noise + tau z` for tau `[B, T]`, z and noise `[B, T, L, Z]`."""
    tau = tau[..., None, None]
    return (1 - tau) * noise + tau * z


def ramp_weight(tau: Tensor) -> Tensor:
    """`w(tau) = 0.9 tau + 0.1`."""
    return 0.9 * tau + 0.1


def draw_levels(
    rows: int,
    frames: int,
    k_max: int,
    coarse: bool,
    noise: Noise,
    power: float = 1.0,
    *,
    finest: bool = False,
) -> Levels:
    """For each frame `d = 1 / k_max`, or d drawn from {1, 1/2, ..., 2 / k_max} if `coarse`; `tau ~ U{0, d, ..., 1 -
    d}`.

    With `coarse` and `finest`, `d ~ 1 / U{1, 2, 4, ..., k_max}` [P]. With a `power` p, tau is `u^p`, `u ~ U(0, 1)`,
    rounded down to the grid of d, so that p > 1 makes low levels more frequent.
    """
    shape = (rows, frames)
    exponent = torch.full(shape, int(math.log2(k_max)), device=noise.device)
    if coarse:
        exponent = (noise.uniform(*shape) * (int(math.log2(k_max)) + finest)).long()
    steps = 2.0**exponent
    tau = torch.floor(noise.uniform(*shape) ** power * steps) / steps
    return Levels(tau, 1 / steps)


def alternate_contexts(levels: Levels, context_level: float, d_min: float) -> Levels:
    """Sets frames 0, 2, 4, ... to `context_level` and `d_min`, like a rollout's history; the others keep their levels.

    So every other frame is predicted after a nearly clean one. The first frame of a clip, which cannot be predicted, is
    among the context frames: its error would be dozens of times that of the others and dominate the gradient.
    """
    held_T = torch.arange(levels.tau.shape[1], device=levels.tau.device) % 2 == 0
    return Levels(levels.tau.masked_fill(held_T, context_level), levels.d.masked_fill(held_T, d_min))


@torch.no_grad()
def bootstrap_velocity(
    dynamics: Dynamics, noised: Tensor, levels: Levels, actions: Tensor, is_first: Tensor, labelled: Tensor
) -> Tensor:
    """`(b' + b'') / 2`, `[B, T, L, Z]`: the mean velocity of two steps of size d / 2, without gradient.

    Frames at d_min take no half step. They serve as context for the others, and their result must not be used.
    """
    tau, d_min = levels.tau, 1 / dynamics.config.k_max
    d = (levels.d / 2).clamp(min=d_min)
    half = torch.where(levels.d > d_min, d, 0.0)
    b1 = (dynamics(noised, tau, d, actions, is_first, labelled).clean - noised) / _per_frame(1 - tau)
    between = noised + b1 * _per_frame(half)
    b2_clean = dynamics(between, tau + half, d, actions, is_first, labelled).clean
    b2 = (b2_clean - between) / _per_frame(1 - (tau + half))
    return (b1 + b2) / 2


class ShortcutLoss(nn.Module):
    """The loss of the dynamics: flow rows at d_min, bootstrap rows above it, separate-image rows, unlabelled rows."""

    def __init__(self, objective: DynamicsObjective) -> None:
        super().__init__()
        self.objective = objective
        # The flow term's RMS scales both terms: the bootstrap term is hundreds of times smaller, and divided by its own
        # RMS it would outweigh the data.
        self.flow_rms = RunningRms()

    def forward(
        self,
        dynamics: Dynamics,
        batch: Batch,
        noise: Noise,
        *,
        bootstrap: bool,
        reduce: Reduce = one_process,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a `batch` with latents; `bootstrap` adds the bootstrap term.

        The first rows are separate images, the next are bootstrap rows, the rest have d = d_min. A batch begins with
        its uniformly drawn rows (`uniform_share`), so most image and bootstrap rows are such rows. With
        `step_draw="uniform"` every row, images included, is a bootstrap row.
        """
        assert batch.latents is not None
        config, objective = dynamics.config, self.objective
        z, B = dynamics.pack(batch.latents), batch.rows
        labelled = batch.labelled & (noise.uniform(B) >= objective.unlabelled_fraction)
        levels, images, boot = _draw_batch(objective, config.k_max, B, batch.length, bootstrap, noise)
        n_image, rows = images.rows.stop, boot.rows
        if objective.contexts == "alternate":
            video = slice(n_image, None)
            held = alternate_contexts(levels.of(video), dynamics.context_level, 1 / config.k_max)
            levels.tau[video], levels.d[video] = held.tau, held.d
        noised = noise_to(levels.tau, z, noise.normal(*z.shape))
        inputs = (batch.actions, batch.is_first, labelled)
        clean = _run_images_separately(_passes(dynamics), n_image, noised, levels, *inputs)

        weight_BT = (ramp_weight(levels.tau) if objective.ramp else torch.ones_like(levels.tau)) * batch.mask
        if objective.loss_space == "v":  # (z^ - z~) / (1 - tau) - (z - noise) = (z^ - z) / (1 - tau)
            weight_BT = weight_BT / (1 - levels.tau).square()
        at_d_min = levels.d == 1 / config.k_max
        flow_BT = (clean - z).square().mean(dim=(2, 3)) * at_d_min
        flowing = reduce((batch.mask & at_d_min).sum())
        flow = (weight_BT * flow_BT).sum() / flowing.clamp(min=1)
        # A batch without a frame at d_min has no flow term; its 0 must not enter the running average.
        loss, metrics = self.flow_rms(flow, flowing > 0, reduce), {"flow": flow.detach()}
        if boot.share:
            stepped = ~at_d_min[rows]
            stepped_frames = reduce((batch.mask[rows] & stepped).sum())
            term = flow.new_zeros(())
            if rows.stop > rows.start:  # a process may have no bootstrap rows
                tau = levels.tau[rows]
                target = _run_images_separately(
                    functools.partial(bootstrap_velocity, dynamics),
                    max(0, n_image - rows.start),
                    noised[rows],
                    levels.of(rows),
                    *(x[rows] for x in inputs),
                )
                velocity = (clean[rows] - noised[rows]) / _per_frame(1 - tau)
                boot_BT = (1 - tau).square() * (velocity - target).square().mean(dim=(2, 3))
                term = (weight_BT[rows] * boot_BT * stepped).sum() / stepped_frames.clamp(min=1)
            # Each term is weighted by its share of the rows, or of the frames.
            share = boot.share if objective.step_draw == "partial" else stepped_frames / reduce(batch.mask.sum())
            loss = loss * (1 - share) + term / self.flow_rms.divisor() * share
            metrics["bootstrap"] = term.detach()
        return loss, metrics


def _draw_batch(
    objective: DynamicsObjective, k_max: int, rows: int, frames: int, bootstrap: bool, noise: Noise
) -> tuple[Levels, Group, Group]:
    """The levels of a batch, the rows that are separate images, and the rows that have the bootstrap term."""
    bootstrap = bootstrap and k_max > 1  # with k_max 1 there is no d above d_min
    everywhere = bootstrap and objective.step_draw == "uniform"
    fractions = objective.image_fraction, objective.bootstrap_fraction if bootstrap and not everywhere else 0.0
    images, stepped = noise.groups(rows, fractions)
    levels = draw_levels(rows, frames, k_max, everywhere, noise, objective.tau_power, finest=True)
    if everywhere:
        return levels, images, Group(slice(0, rows), 1.0)
    if stepped.share:
        coarse, at = draw_levels(rows, frames, k_max, True, noise, objective.tau_power), stepped.rows
        levels.tau[at], levels.d[at] = coarse.tau[at], coarse.d[at]
    return levels, images, stepped


Pass = Callable[[Tensor, Levels, Tensor, Tensor, Tensor], Tensor]


def _passes(dynamics: Dynamics) -> Pass:
    return lambda noised, levels, *inputs: dynamics(noised, levels.tau, levels.d, *inputs).clean


def _run_images_separately(
    run: Pass, n_image: int, noised: Tensor, levels: Levels, actions: Tensor, is_first: Tensor, labelled: Tensor
) -> Tensor:
    """`run` on all rows; frames of the first `n_image` rows become rows of one frame and do not see one another."""
    rows, frames = levels.tau.shape
    parts = []
    if n_image:
        fold = (n_image * frames, 1)
        single = run(
            noised[:n_image].reshape(*fold, *noised.shape[2:]),
            Levels(levels.tau[:n_image].reshape(fold), levels.d[:n_image].reshape(fold)),
            actions[:n_image].reshape(*fold, -1),
            torch.ones(fold, dtype=torch.bool, device=noised.device),  # a separate image counts as a first frame
            labelled[:n_image].repeat_interleave(frames),
        )
        parts.append(single.reshape(n_image, *noised.shape[1:]))
    if n_image < rows:
        video = slice(n_image, None)
        parts.append(run(noised[video], levels.of(video), actions[video], is_first[video], labelled[video]))
    return torch.cat(parts)


def _per_frame(x: Tensor) -> Tensor:
    return x[..., None, None]
