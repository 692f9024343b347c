"""The imagined world as a gymnasium environment for one player: pixels and rewards are those of a dream."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from embody.data.arrays import actions_tensor, whole_number
from embody.data.sampling.batch import Batch
from embody.errors import UserError
from embody.imagination.dream import Dream
from embody.model import check_tokenizer
from embody.nn.noise import GeneratorNoise
from embody.tokenizer import Tokenizer

__all__ = ["DreamEnv"]


class DreamEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Each `reset` starts a dream from a recorded context, the one row of `contexts(seed)`.

    Observations are uint8 `[H, W, 3]`, actions int64 `[A]`. Rewards are the dream's. An episode terminates when the
    continue probability, `continue` in the info, is below 1/2, and is truncated after `horizon` steps. Without an agent
    the reward is 0, the continue probability is 1, and a frame costs K passes instead of K + 1.
    """

    def __init__(self, tokenizer: Tokenizer, dream: Dream, contexts: Callable[[int], Batch], horizon: int) -> None:
        check_tokenizer(tokenizer, dream.dynamics)
        whole_number(horizon, "horizon", low=1)
        self.observation_space = gymnasium.spaces.Box(0, 255, (*tokenizer.frame, 3), np.uint8)
        self.action_space = gymnasium.spaces.MultiDiscrete(list(dream.dynamics.actions.sizes))
        self.tokenizer, self.dream, self.contexts, self.horizon = tokenizer, dream, contexts, horizon
        self.steps = 0

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new dream; the observation is the last frame of its context."""
        super().reset(seed=seed)
        if seed is not None:
            self.dream.noise = GeneratorNoise(torch.Generator(self.dream.noise.device).manual_seed(seed))
        context = self.contexts(int(self.np_random.integers(2**31)))
        if context.latents is None or context.rows != 1:
            raise UserError(f"contexts must return batches of one row with latents, got {context.rows} rows")
        self.steps, self.cache = 0, self.tokenizer.decoder_cache(1)
        self.dream.reset(context.latents, context.actions, context.is_first, context.task)
        pixels = [self._decode(latent) for latent in context.latents.unbind(1)]
        return pixels[-1], {}

    @torch.no_grad()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Imagine one timestep after `action`, int64 `[A]`, or one integer if A is 1.

        A `UserError` if the action is out of range, or `reset` was not called before.
        """
        sizes = self.dream.dynamics.actions.sizes
        if self.dream.rows is None:
            raise UserError("the dream has no context yet: call reset first")
        actions = actions_tensor(action, "action", sizes, device=self.dream.noise.device)[None]
        self.steps += 1
        if self.dream.agent is None:
            latents, reward, going_on = self.dream.advance(actions)[0], 0.0, 1.0
        else:
            step = self.dream.step(actions)
            latents, reward, going_on = step.latents, float(step.reward[0]), float(step.continues[0])
        pixels = self._decode(latents.view(1, self.tokenizer.config.latents, self.tokenizer.config.channels))
        return pixels, reward, going_on < 0.5, self.steps >= self.horizon, {"continue": going_on}

    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        pixels = self.tokenizer.to_pixels(self.tokenizer.decode(latents[:, None], cache=self.cache))[0, 0]
        return (pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy()
