"""The stages of training, each declared once. This module does not import torch, so that `--help` is quick."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embody.config import Config

if TYPE_CHECKING:
    from embody.data import EpisodeRow

__all__ = ["CONTROLS", "STAGES", "StageSpec"]

Phase = Literal["tokenizer", "dynamics", "agent", "imagination"]


def _same_config(config: Config) -> Config:
    return config


@dataclass(frozen=True)
class StageSpec:
    """What the weights of a stage depend on, apart from data, seed and precision."""

    name: str
    summary: str  # one line for the command line
    phase: Phase  # its training settings are `Config.train_PHASE`; a control has the phase of its main stage
    upstream: tuple[str, ...]  # stages whose weights it reads, in the order they are trained
    models: tuple[str, ...]  # groups of architecture settings: see `_settings`
    objectives: tuple[str, ...]  # groups of loss settings: see `_settings`
    imagination: tuple[str, ...] = ()  # fields of `Config.imagination` that a phase before phase 3 depends on
    sampling: bool = False  # whether it trains on dreams, and so depends on `Config.sampling`
    change: Callable[[Config], Config] = _same_config  # a control changes settings
    episodes: Callable[["EpisodeRow"], bool] | None = None  # which episodes it trains on; None: all


def _no_world_model(config: Config) -> Config:
    """The agent shares the layers of an untrained dynamics, and only the agent's losses train them."""
    agent = dataclasses.replace(config.agent, own_weights=False)
    objective = dataclasses.replace(
        config.agent_objective, dynamics_weight=0.0, heads_input="context", world_lr_scale=1.0
    )
    return dataclasses.replace(config, agent=agent, agent_objective=objective)


def _shuffle_rewards(config: Config) -> Config:
    return dataclasses.replace(config, imagination=dataclasses.replace(config.imagination, shuffle_rewards=True))


def _is_best_demonstration(row: "EpisodeRow") -> bool:
    return row.source == "expert" and row.noise == 0.0


_TOKENIZER = StageSpec(
    "tokenizer",
    "Train the tokenizer, which turns frames into latents (phase 1a).",
    "tokenizer",
    (),
    ("frame", "tokenizer"),
    ("tokenizer",),
)
_DYNAMICS = StageSpec(
    "dynamics",
    "Train the dynamics, which generates the latents of the next frame (phase 1b).",
    "dynamics",
    ("tokenizer",),
    ("actions", "dynamics"),
    ("dynamics",),
    imagination=("context",),
)
_AGENT = StageSpec(
    "agent",
    "Train the agent: behaviour cloning, reward and value (phase 2).",
    "agent",
    ("tokenizer", "dynamics"),
    ("actions", "dynamics", "agent"),
    ("dynamics", "agent"),
    imagination=("context", "gamma"),
)
_IMAGINATION = StageSpec(
    "imagination",
    "Train the policy and the value by reinforcement learning in dreams (phase 3).",
    "imagination",
    ("tokenizer", "dynamics", "agent"),
    ("actions", "dynamics", "agent"),
    ("agent", "imagination"),
    imagination=("context", "gamma"),
    sampling=True,
)

CONTROLS: Mapping[str, StageSpec] = {
    spec.name: spec
    for spec in (
        dataclasses.replace(
            _AGENT,
            name="best_demonstrations",
            summary="Control: train the agent only on the expert's episodes without random actions.",
            episodes=_is_best_demonstration,
        ),
        dataclasses.replace(
            _AGENT,
            name="no_world_model",
            summary="Control: train the agent on an untrained dynamics.",
            upstream=("tokenizer",),
            change=_no_world_model,
        ),
        dataclasses.replace(
            _IMAGINATION,
            name="shuffled_rewards",
            summary="Control: train in dreams whose rewards are permuted over the batch.",
            change=_shuffle_rewards,
        ),
    )
}
STAGES: Mapping[str, StageSpec] = {
    **{spec.name: spec for spec in (_TOKENIZER, _DYNAMICS, _AGENT, _IMAGINATION)},
    **CONTROLS,
}
