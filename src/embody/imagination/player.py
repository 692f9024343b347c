"""The agent in the real environment: it takes frames and samples actions, with the same caches as in dreams."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embody.config import SamplingConfig, from_dict
from embody.config.bounds import check_bounds
from embody.data.arrays import actions_tensor, as_path, frames_array, indices_tensor, texts, whole_number
from embody.errors import UserError, one_line
from embody.imagination.dream import Dream
from embody.model import (
    Precision,
    WorldAndAgent,
    check_tokenizer,
    for_inference,
    load_tokenizer,
    load_world_and_agent,
)
from embody.nn.cache import RingCache
from embody.nn.noise import GeneratorNoise
from embody.nn.precision import check_precision
from embody.tokenizer import Tokenizer

__all__ = ["Player"]


class Player:
    """Plays `N` episodes side by side: `begin`, then `act` and `observe` in turn.

    `relabel` changes the tasks, `keep` drops finished episodes. As in training, the history starts with the first frame
    repeated `context` times. In multi-achievement mode a label names the tasks that are left, "collect wood, wake up";
    call `relabel` before observing the frame in which they change.

    Frames and actions may be given as lists, tensors or arrays of any integer type. A `UserError` if their shape, type
    or range is wrong, if a label is not as in training, or if `begin` was not called before. `observe` may be called
    without `act`, with actions that someone else chose.
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
        if not isinstance(model, WorldAndAgent):
            raise UserError(f"a player needs a WorldAndAgent, got a {type(model).__name__}")
        check_tokenizer(tokenizer, model.dynamics)
        self.tokenizer, self.agent, self.goal = tokenizer, model.agent, model.goal
        self.context = whole_number(context, "context", low=1)
        self.vocabulary, self.labels = texts(vocabulary, "vocabulary"), texts(labels, "labels")
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
        those that the dynamics was trained on. A `UserError` if weights are missing, or torch has no such device.
        """
        folder, device = as_path(folder, "a weights folder"), _device(device)
        check_precision(precision, device)
        after = folder / "imagination.safetensors"
        path = after if after.exists() else folder / "agent.safetensors"
        model, recipe = load_world_and_agent(path)
        tokenizer, _ = load_tokenizer(folder / "tokenizer.safetensors")
        context, sampling, words = _recipe(path, recipe, model)
        tokenizer = for_inference(tokenizer.to(device), precision="float32", compiled=compiled)
        model = for_inference(model.to(device), precision=precision, compiled=compiled)
        return cls(tokenizer, model, *words, context=context, sampling=sampling, seed=seed)

    @torch.no_grad()
    def begin(self, frames: np.ndarray, labels: list[str]) -> None:
        """Begin `N` new episodes with first frames uint8 `[N, H, W, 3]` and task labels."""
        pixels = self._pixels(frames)
        rows, sizes = len(pixels), self.dream.dynamics.actions.sizes
        task = self._tasks(labels, rows)
        self.tokenizer_cache = self.tokenizer.encoder_cache(rows)
        actions = torch.zeros(rows, len(sizes), dtype=torch.long, device=self.device)
        first = torch.ones(rows, dtype=torch.bool, device=self.device)
        self.history.clear()
        self.history.extend([(self._encode(pixels), actions, first)] * self.context)
        self.task = task
        tasks = self.goal.repeat_over_time(self.task, self.context)
        self.features = self.dream.reset(*self._past(slice(None)), tasks)[:, -1]

    @torch.no_grad()
    def relabel(self, labels: list[str]) -> None:
        """Set the task labels of all `N` episodes; the history is kept.

        A label of one task applies to the entire history, which is recomputed, because in training a clip has one
        label: `act` then acts as if the label had been given from the start. In multi-achievement mode the tasks that
        are left apply from the next frame on, because in training they change within a clip.
        """
        features, before = self._begun()
        self.task = self._tasks(labels, len(features))
        rows = self.goal.rows_to_reread(before, self.task)
        if len(rows):
            reread = self.dream.reread(rows, *self._past(rows), self.task[rows])[:, -1]
            self.features = features.index_copy(0, rows, reread)

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these episodes, in this order."""
        features, task = self._begun()
        assert self.tokenizer_cache is not None
        chosen = indices_tensor(rows, "rows", len(features), device=self.device)
        self.dream.select(chosen)
        self.tokenizer_cache = self.tokenizer_cache.select(chosen)
        self.features, self.task = features[chosen], task[chosen]
        kept = [(latents[chosen], actions[chosen], first[chosen]) for latents, actions, first in self.history]
        self.history.clear()
        self.history.extend(kept)

    @torch.no_grad()
    def act(self) -> np.ndarray:
        """Sampled actions int64 `[N, A]`."""
        features, _ = self._begun()
        return self.agent.heads.act(features, self.sampling.support).sample(self.noise).cpu().numpy()

    @torch.no_grad()
    def observe(self, actions: np.ndarray, frames: np.ndarray) -> None:
        """Add the frames, uint8 `[N, H, W, 3]`, that followed `actions`, int64 `[N, A]`."""
        features, task = self._begun()
        rows, sizes = len(features), self.dream.dynamics.actions.sizes
        taken = actions_tensor(actions, "actions", sizes, rows, device=self.device)
        latents = self._encode(self._pixels(frames, rows))
        self.history.append((latents, taken, torch.zeros(rows, dtype=torch.bool, device=self.device)))
        self.features = self.dream.observe(latents, taken, self.goal.repeat_over_time(task, 1))

    def _begun(self) -> tuple[Tensor, Tensor]:
        """The features and the task of the last frame; a `UserError` before `begin`."""
        if self.features is None or self.task is None:
            raise UserError("the player has no episodes yet: call begin first, with their first frames and labels")
        return self.features, self.task

    def _pixels(self, frames: np.ndarray, rows: int | None = None) -> Tensor:
        """Frames as a tensor uint8 `[N, H, W, 3]` on the player's device."""
        array = frames_array(frames, "frames", rows=rows, size=self.tokenizer.frame)
        return torch.from_numpy(np.require(array, requirements=["W"])).to(self.device)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.tokenizer.encode(pixels.permute(0, 3, 1, 2)[:, None], cache=self.tokenizer_cache)[:, 0]

    def _past(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, actions and is_first, `[n, T, ...]`, of the history of `rows`."""
        latents, actions, first = (
            torch.stack([part[rows] for part in parts], 1) for parts in zip(*self.history, strict=True)
        )
        return latents, actions, first

    def _tasks(self, labels: Sequence[str], rows: int) -> Tensor:
        words = self.agent.config.words
        if len(labels := texts(labels, "labels")) != rows:
            raise UserError(f"labels must be one for each of {rows} episodes, got {len(labels)}")
        return self.goal.task_of_labels(labels, self.vocabulary, self.labels, words).to(self.device)


def _device(device: torch.device | str) -> torch.device:
    """The device; a `UserError` if torch does not know or have it."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {one_line(device, 40)!r} cannot be used ({reason}): choose cpu, or cuda on a GPU"
        ) from error
    return found


def _recipe(
    path: Path, recipe: Mapping[str, Any], model: WorldAndAgent
) -> tuple[int, SamplingConfig, tuple[Sequence[str], Sequence[str]]]:
    """The context, the sampling settings, and the vocabulary and labels that the weights at `path` were trained with.

    A `UserError` if the model cannot be played with them.
    """
    try:
        context = recipe["imagination"]["context"]
        sampling = from_dict(SamplingConfig, recipe.get("sampling", {}))  # weights after behaviour cloning have none
        check_bounds(sampling)
        vocabulary, labels = (
            from_dict(tuple[str, ...], words) for words in (recipe["vocabulary"], recipe.get("labels", ()))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was trained by another version ({error}): train it again") from error
    dynamics, agent = model.dynamics.config, model.agent.config
    if type(context) is not int or not 1 <= context <= dynamics.context:
        raise UserError(f"{path}: imagination.context {context} must be from 1 to dynamics.context {dynamics.context}")
    if sampling.k_sample > dynamics.k_max:
        raise UserError(f"{path}: sampling.k_sample {sampling.k_sample} exceeds dynamics.k_max {dynamics.k_max}")
    if len(vocabulary) > agent.vocabulary or len(labels) > agent.tasks:
        raise UserError(
            f"{path} has {len(vocabulary)} words and {len(labels)} labels, more than its agent's {agent.vocabulary} and"
            f" {agent.tasks}: train it again"
        )
    return context, sampling, (vocabulary, labels)
