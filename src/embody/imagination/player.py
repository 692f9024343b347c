"""The agent in the real environment: it takes frames and samples actions, with the same caches as in dreams."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embody.config import SamplingConfig, from_dict
from embody.imagination.dream import Dream
from embody.model import Precision, WorldAndAgent, for_inference, load_tokenizer, load_world_and_agent
from embody.nn.cache import RingCache
from embody.nn.noise import GeneratorNoise
from embody.tokenizer import Tokenizer

__all__ = ["Player"]


class Player:
    """Plays `N` episodes side by side: `begin`, then `act` and `observe` in turn.

    `relabel` changes the tasks, `keep` drops finished episodes. As in training, the history starts with the first frame
    repeated `context` times. In multi-achievement mode a label names the tasks that are left, "collect wood, wake up";
    call `relabel` before observing the frame in which they change.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: WorldAndAgent,
        vocabulary: Sequence[str],
        labels: Sequence[str] = (),
        *,
        context: int,
        sampling: SamplingConfig,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.agent, self.goal, self.context = tokenizer, model.agent, model.goal, context
        self.vocabulary, self.labels = tuple(vocabulary), tuple(labels)
        self.task: Tensor | None = None  # words of labels [N, W], or the tasks that are left, bool [N, P]
        self.device = model.agent.token_MD.device
        self.noise = GeneratorNoise(torch.Generator(self.device).manual_seed(seed))
        self.sampling = sampling
        self.dream = Dream(model, k_sample=sampling.k_sample, noise=self.noise)
        self.tokenizer_cache: RingCache | None = None
        self.features: Tensor | None = None
        # Latents, actions and is_first of each frame in the ring, to recompute the history for another task.
        self.history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=self.dream.ring)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        seed: int = 0,
        precision: Precision = "float32",
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> "Player":
        """The agent in a weights folder such as `models/minigrid`: after imagination if it was trained, else after
        behaviour cloning.

        `precision` and `compiled` are those of `for_inference`. The tokenizer stays float32, so that latents equal
        those that the dynamics was trained on.
        """
        folder = Path(folder)
        after = folder / "imagination.safetensors"
        model, recipe = load_world_and_agent(after if after.exists() else folder / "agent.safetensors")
        tokenizer, _ = load_tokenizer(folder / "tokenizer.safetensors")
        tokenizer = for_inference(tokenizer.to(device), precision="float32", compiled=compiled)
        model = for_inference(model.to(device), precision=precision, compiled=compiled)
        context = recipe["imagination"]["context"]
        sampling = from_dict(SamplingConfig, recipe.get("sampling", {}))  # weights after behaviour cloning have none
        words = recipe["vocabulary"], recipe.get("labels", ())
        return cls(tokenizer, model, *words, context=context, sampling=sampling, seed=seed)

    @torch.no_grad()
    def begin(self, frames: np.ndarray, labels: list[str]) -> None:
        """Begin `N` new episodes with first frames uint8 `[N, H, W, 3]` and task labels."""
        rows, sizes = len(frames), self.dream.dynamics.actions.sizes
        self.tokenizer_cache = self.tokenizer.encoder_cache(rows)
        actions = torch.zeros(rows, len(sizes), dtype=torch.long, device=self.device)
        first = torch.ones(rows, dtype=torch.bool, device=self.device)
        self.history.clear()
        self.history.extend([(self._encode(frames), actions, first)] * self.context)
        self.task = self._tasks(labels)
        task = self.goal.repeat_over_time(self.task, self.context)
        self.features = self.dream.reset(*self._past(slice(None)), task)[:, -1]

    @torch.no_grad()
    def relabel(self, labels: list[str]) -> None:
        """Set the task labels of all `N` episodes; the history is kept.

        A label of one task applies to the entire history, which is recomputed, because in training a clip has one
        label: `act` then acts as if the label had been given from the start. In multi-achievement mode the tasks that
        are left apply from the next frame on, because in training they change within a clip.
        """
        assert self.features is not None and self.task is not None, "begin comes first"
        before, self.task = self.task, self._tasks(labels)
        rows = self.goal.rows_to_reread(before, self.task)
        if len(rows):
            features = self.dream.reread(rows, *self._past(rows), self.task[rows])[:, -1]
            self.features = self.features.index_copy(0, rows, features)

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these episodes, in this order."""
        assert self.features is not None and self.tokenizer_cache is not None and self.task is not None, "begin first"
        chosen = torch.tensor(rows, dtype=torch.long, device=self.device)
        self.dream.select(chosen)
        self.tokenizer_cache = self.tokenizer_cache.select(chosen)
        self.features, self.task = self.features[chosen], self.task[chosen]
        kept = [(latents[chosen], actions[chosen], first[chosen]) for latents, actions, first in self.history]
        self.history.clear()
        self.history.extend(kept)

    @torch.no_grad()
    def act(self) -> np.ndarray:
        """Sampled actions int64 `[N, A]`."""
        assert self.features is not None, "begin comes first"
        return self.agent.heads.act(self.features, self.sampling.support).sample(self.noise).cpu().numpy()

    @torch.no_grad()
    def observe(self, actions: np.ndarray, frames: np.ndarray) -> None:
        """Add the frames, uint8 `[N, H, W, 3]`, that followed `actions`, int64 `[N, A]`."""
        taken, latents = torch.from_numpy(actions).to(self.device), self._encode(frames)
        self.history.append((latents, taken, torch.zeros(len(frames), dtype=torch.bool, device=self.device)))
        assert self.task is not None, "begin comes first"
        self.features = self.dream.observe(latents, taken, self.goal.repeat_over_time(self.task, 1))

    def _encode(self, frames: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2)
        return self.tokenizer.encode(pixels[:, None], cache=self.tokenizer_cache)[:, 0]

    def _past(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, actions and is_first, `[n, T, ...]`, of the history of `rows`."""
        latents, actions, first = (
            torch.stack([part[rows] for part in parts], 1) for parts in zip(*self.history, strict=True)
        )
        return latents, actions, first

    def _tasks(self, labels: Sequence[str]) -> Tensor:
        words = self.agent.config.words
        return self.goal.task_of_labels(labels, self.vocabulary, self.labels, words).to(self.device)
