"""Measures of the trained models against worlds whose use of the actions is known."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from embody.config import DynamicsConfig
from embody.data import Dataset, LatentWriter
from embody.dynamics import Dynamics, Prediction
from embody.evaluation.held_out import action_shuffle_ratios
from embody.evaluation.run import _policy
from embody.imagination import Player
from embody.model import WorldAndAgent
from embody.nn.transformer import Memory
from tests.tiny_models import CONFIG, FLOW, make_agent, make_dataset, make_dynamics, make_tokenizer


@dataclass
class ActingWorld:
    """A world in which a frame's latents are all `action` and the prediction errs by `miss` besides."""

    config: DynamicsConfig
    miss: float = 0.5
    context_level: float = 0.875
    register_RD: Tensor = torch.zeros(0)

    def pack(self, latents: Tensor) -> Tensor:
        return latents.reshape(*latents.shape[:2], self.config.tokens, self.config.channels)

    def __call__(self, noised: Tensor, tau: Tensor, d: Tensor, actions: Tensor, is_first: Tensor) -> Prediction:
        self.tau = tau
        clean = actions[..., :1, None].float().expand(noised.shape) + self.miss
        clean = clean + 100 * is_first[..., None, None]  # first timesteps have no action, and do not count
        return Prediction(clean, Memory(()))


def acting_dataset(root: Path) -> Dataset:
    """Latents of every timestep equal the first factor of the action that led to it."""
    dataset = make_dataset(root, [12, 9, 15, 11], "validation")
    writer = LatentWriter(dataset, "abc", 4, 4)
    for shard in writer.pending():
        actions = dataset.actions[shard.start : shard.stop, :1, None]
        with writer.filling(shard) as latents:
            latents[:] = actions.repeat(4, 1).repeat(4, 2)
    return dataset


def test_a_player_has_the_history_that_it_learnt_with(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, context=5))
    model = WorldAndAgent(make_dynamics(), make_agent())
    player = _policy(config, make_tokenizer(), model, [make_dataset(tmp_path, [5])], 0)
    assert isinstance(player, Player) and player.context == config.imagination.context != 5


@pytest.mark.parametrize("contexts", ["noised", "alternate"])
def test_action_shuffle_ratios_by_hand(contexts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _action_shuffle_ratios_by_hand(contexts, tmp_path / "whole")
    monkeypatch.setattr("embody.evaluation.held_out._PASS", 30)  # a few clips at a time
    assert _action_shuffle_ratios_by_hand(contexts, tmp_path / "parts") == pytest.approx(whole, rel=1e-5)


def _action_shuffle_ratios_by_hand(contexts: Any, tmp_path: Path) -> dict[str, float]:
    config = dataclasses.replace(CONFIG, dynamics_objective=dataclasses.replace(FLOW, contexts=contexts))
    world, dataset = ActingWorld(config.dynamics), acting_dataset(tmp_path)
    found = action_shuffle_ratios(config, cast(Dynamics, world), [dataset], "abc")
    # With the true actions the error is miss^2. With shuffled ones it is that of two independent draws from the
    # dataset's actions besides: 2 var, since E[miss * (a - a')] = 0.
    share = torch.bincount(torch.tensor(dataset.actions[:, 0])).double()
    share /= share.sum()
    values = torch.arange(len(share)).double()
    variance = float((share * values**2).sum() - (share * values).sum() ** 2)
    expected = 1 + 2 * variance / 0.25
    assert found["action_shuffle_ratio_noised"] == pytest.approx(expected, rel=0.15)
    assert found["action_shuffle_ratio"] == pytest.approx(expected, rel=0.15)
    assert (found["action_shuffle_ratio"] == found["action_shuffle_ratio_noised"]) == (contexts == "noised")
    held = (world.tau[:, ::2] == world.context_level).all()
    assert bool(held) == (contexts == "alternate")  # the last pass has levels as trained
    return found
