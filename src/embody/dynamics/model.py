"""The dynamics transformer `z^ = f(z~, tau, d, a)`: it predicts the clean latent, or the velocity towards it.

The tokens of a frame are an action token, a token of (tau, d), registers and spatial tokens. The prediction is read
from the spatial tokens. Legend: B rows, T frames, A action factors, L spatial tokens, Z channels, S tokens a frame, D
width.
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
    """The result of one forward pass of the dynamics."""

    clean: Tensor  # float32 [B, T, L, Z]: the predicted clean latent z^; empty with `memory_only`
    memory: Memory  # what agent tokens attend to


class ActionEmbedding(nn.Module):
    """The sum of one embedding for each action factor and one learned embedding [P]; "no action" has its own entry."""

    offsets: Tensor

    def __init__(self, spec: ActionSpec, width: int) -> None:
        super().__init__()
        sizes = torch.tensor(spec.sizes)
        self.table = nn.Embedding(sum(spec.sizes) + 1, width)
        self.always_D = nn.Parameter(torch.randn(width))
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)

    def forward(self, actions: Tensor, is_first: Tensor, labelled: Tensor) -> Tensor:
        """Embeddings `[B, T, D]` of actions `[B, T, A]`.

        First timesteps use the "no action" entry; rows that are not `labelled` use only the learned embedding.
        """
        embedded = self.table(actions + self.offsets).sum(dim=2)
        nothing = self.table.weight[-1].to(embedded.dtype)
        embedded = torch.where(is_first[..., None], nothing, embedded)
        return self.always_D + embedded * labelled[:, None, None]


class Dynamics(nn.Module):
    """Predicts clean latents from noised latents, actions and (tau, d) of each frame."""

    def __init__(self, config: DynamicsConfig, actions: ActionSpec) -> None:
        super().__init__()
        self.config, self.actions = config, actions
        width = config.trunk.width
        self.action = ActionEmbedding(actions, width)
        # Embeddings of signal level and step size, by grid index, are concatenated [P].
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
        """S: the tokens of a frame (action, (tau, d), registers, spatial)."""
        return 2 + self.config.registers + self.config.tokens

    @property
    def context_level(self) -> float:
        """The signal level of context frames, on the finest grid: `round(context_tau K_max) / K_max`."""
        return round(self.config.context_tau * self.config.k_max) / self.config.k_max

    def new_cache(self, rows: int, context: int | None = None) -> RingCache:
        """An empty cache for `rows` rollouts, of `config.context` frames by default."""
        context = self.config.context if context is None else context
        return self.trunk.new_cache(rows, self.tokens, context)

    def pack(self, latents: Tensor) -> Tensor:
        """The tokenizer's latents `[B, T, *, *]`, repacked to this model's tokens: float32 `[B, T, L, Z]`."""
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
        """One forward pass over frames.

        noised: float `[B, T, L, Z]`, z~. tau: `[B, T]` in [0, 1], on the grid of d. d: `[B, T]`, a power of 1/2, at
        least 1 / K_max. actions: int64 `[B, T, A]` that led to each frame. is_first: bool `[B, T]`. labelled: bool
        `[B]`, by default all true. With a cache the frames are provisional until `cache.commit`. A predicted
        velocity v gives `z^ = z~ + (1 - tau) v`. With `memory_only` nothing is predicted, and the layers that only the
        prediction needs are skipped.
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
        # The output layer stays in float32 under autocast; the meta device has no autocast.
        device = x_BTSD.device.type
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            out = self.latent_out(x_BTSD[:, :, -self.config.tokens :].float())
        clean = out if self.config.predict == "x" else noised + (1 - tau)[..., None, None] * out
        return Prediction(clean, memory)
