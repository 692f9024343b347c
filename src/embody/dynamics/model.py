"""The dynamics transformer `z^ = f(z~, tau, d, a)`: it predicts the clean latent, or the velocity that leads there.

A frame's tokens: one of the action, one of (tau, d), registers, spatial latent tokens; the prediction is read at the
latter. Legend: B rows, T frames, A action factors, L spatial tokens, Z channels, S tokens a frame, D width.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embody.config import ActionSpec, DynamicsConfig
from embody.nn.cache import RingCache
from embody.nn.norm import RMSNorm
from embody.nn.transformer import Memory, Transformer, initialise

__all__ = ["Dynamics", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """One pass of the world."""

    clean: Tensor  # float32 [B, T, L, Z], the predicted clean latent; empty with `memory_only`
    memory: Memory  # what agent tokens may read


class ActionEmbedding(nn.Module):
    """One table with offsets, summed over the factors, plus one learned embedding; "no action" has its own entry."""

    offsets: Tensor

    def __init__(self, spec: ActionSpec, width: int) -> None:
        super().__init__()
        sizes = torch.tensor(spec.sizes)
        self.table = nn.Embedding(sum(spec.sizes) + 1, width)
        self.always_D = nn.Parameter(torch.randn(width))
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)

    def forward(self, actions: Tensor, is_first: Tensor, labelled: Tensor) -> Tensor:
        """`[B, T, D]` of actions `[B, T, A]`; first timesteps have none, rows not `labelled` only the learned one."""
        embedded = self.table(actions + self.offsets).sum(dim=2)
        nothing = self.table.weight[-1].to(embedded.dtype)
        embedded = torch.where(is_first[..., None], nothing, embedded)
        return self.always_D + embedded * labelled[:, None, None]


class Dynamics(nn.Module):
    """Noised latents, actions and (tau, d) of each frame to clean latents."""

    def __init__(self, config: DynamicsConfig, actions: ActionSpec) -> None:
        super().__init__()
        self.config, self.actions = config, actions
        width = config.trunk.width
        self.action = ActionEmbedding(actions, width)
        # Signal levels and step sizes are looked up by grid index and concatenated [P].
        self.tau = nn.Embedding(config.k_max + 1, width // 2)
        self.step = nn.Embedding(int(math.log2(config.k_max)) + 1, width - width // 2)
        self.register_RD = nn.Parameter(torch.randn(config.registers, width))
        self.latent_in = nn.Linear(config.channels, width)
        self.latent_position_LD = nn.Parameter(torch.randn(config.tokens, width))
        self.token_norm = RMSNorm(width)
        self.trunk = Transformer(config.trunk)
        self.latent_out = nn.Linear(width, config.channels)
        initialise(self.latent_in, 1)
        nn.init.zeros_(self.latent_out.weight)
        nn.init.zeros_(self.latent_out.bias)

    @property
    def tokens(self) -> int:
        """S: action, (tau, d), registers, spatial."""
        return 2 + self.config.registers + self.config.tokens

    @property
    def context_level(self) -> float:
        """Signal level of context frames, on the finest grid: `round(0.9 K_max) / K_max`."""
        return round(self.config.context_tau * self.config.k_max) / self.config.k_max

    def new_cache(self, rows: int, context: int | None = None) -> RingCache:
        """An empty history of `rows` worlds, of `config.context` frames by default."""
        context = self.config.context if context is None else context
        return self.trunk.new_cache(rows, self.tokens, context)

    def pack(self, latents: Tensor) -> Tensor:
        """The tokenizer's latents `[B, T, *, *]`, float32 or as stored, as this model's float32 `[B, T, L, Z]`."""
        return latents.reshape(*latents.shape[:2], self.config.tokens, self.config.channels).float()

    def forward(
        self,
        noised: Tensor,
        tau: Tensor,
        d: Tensor,
        actions: Tensor,
        is_first: Tensor,
        labelled: Tensor | None = None,
        cache: RingCache | None = None,
        memory_only: bool = False,
    ) -> Prediction:
        """One pass over frames.

        noised float `[B, T, L, Z]`; tau `[B, T]` in [0, 1], on the grid of its d; d `[B, T]`, a power of 1/2 down to
        1 / K_max; actions int64 `[B, T, A]` that led to each frame; is_first bool `[B, T]`; labelled bool `[B]`, all by
        default. With a cache the frames are in progress: `cache.commit` keeps them. A predicted velocity v is turned
        into `z^ = z~ + (1 - tau) v`. With `memory_only` nothing is predicted, and the last layers are left out.
        """
        B, T = noised.shape[:2]
        if labelled is None:
            labelled = torch.ones(B, dtype=torch.bool, device=noised.device)
        k_max = self.config.k_max
        level_BTD = torch.cat((self.tau((tau * k_max).round().long()), self.step((-d.log2()).round().long())), dim=-1)
        x_BTSD = torch.cat(
            (
                self.action(actions, is_first, labelled)[:, :, None],
                level_BTD[:, :, None],
                self.register_RD.expand(B, T, -1, -1),
                self.latent_in(noised) + self.latent_position_LD,
            ),
            dim=2,
        )
        x_BTSD, memory = self.trunk(self.token_norm(x_BTSD), cache=cache, memory_only=memory_only)
        if memory_only:
            return Prediction(noised.new_zeros(B, T, 0, 0), memory)
        # The flow head stays in float32 under autocast, which the meta device does not know.
        device = x_BTSD.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            out = self.latent_out(x_BTSD[:, :, -self.config.tokens :].float())
        clean = out if self.config.predict == "x" else noised + (1 - tau)[..., None, None] * out
        return Prediction(clean, memory)
