"""The stages of training, each declared once; no torch here, so that the command line names them at once."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embody.config import Config

if TYPE_CHECKING:
    from embody.data import EpisodeRow

__all__ = ["CONTROLS", "STAGES", "StageSpec"]

Phase = Literal["tokenizer", "dynamics", "agent", "imagination"]


def _unchanged(config: Config) -> Config:
    return config


@dataclass(frozen=True)
class StageSpec:
    """What the weights of a stage depend on, beside data, seed and precision."""

    name: str
    phase: Phase  # whose `train_` settings it has; a control's is that of the stage which it is a control of
    built_on: tuple[str, ...]  # stages whose weights it reads, the tokenizer first, the nearest last
    models: tuple[str, ...]  # their architecture
    objectives: tuple[str, ...]
    dreams: tuple[str, ...] = ()  # settings of imagination, where that is not an objective
    sampling: bool = False  # whether it learns from samples
    change: Callable[[Config], Config] = _unchanged  # the settings of a control
    episodes: Callable[["EpisodeRow"], bool] | None = None  # that a control learns from; None: all


def _without_world(config: Config) -> Config:
    """The agent shares the dynamics' layers, and is all that they learn from."""
    agent = dataclasses.replace(config.agent, own_weights=False)
    objective = dataclasses.replace(
        config.agent_objective, dynamics_weight=0.0, heads_input="context", world_lr_scale=1.0
    )
    return dataclasses.replace(config, agent=agent, agent_objective=objective)


def _with_shuffled_rewards(config: Config) -> Config:
    return dataclasses.replace(config, imagination=dataclasses.replace(config.imagination, shuffle_rewards=True))


def _by_expert_alone(row: "EpisodeRow") -> bool:
    return row.source == "expert" and row.noise == 0.0


_TOKENIZER = StageSpec("tokenizer", "tokenizer", (), ("frame", "tokenizer"), ("tokenizer",))
_DYNAMICS = StageSpec(
    "dynamics", "dynamics", ("tokenizer",), ("actions", "dynamics"), ("dynamics",), dreams=("context",)
)
_AGENT = StageSpec(
    "agent",
    "agent",
    ("tokenizer", "dynamics"),
    ("actions", "dynamics", "agent"),
    ("dynamics", "agent"),
    dreams=("context", "gamma"),
)
_IMAGINATION = StageSpec(
    "imagination",
    "imagination",
    ("tokenizer", "dynamics", "agent"),
    ("actions", "dynamics", "agent"),
    ("agent", "imagination"),
    dreams=("context", "gamma"),
    sampling=True,
)

CONTROLS: Mapping[str, StageSpec] = {
    spec.name: spec
    for spec in (
        dataclasses.replace(_AGENT, name="best_demonstrations", episodes=_by_expert_alone),
        dataclasses.replace(_AGENT, name="no_world_model", built_on=("tokenizer",), change=_without_world),
        dataclasses.replace(_IMAGINATION, name="shuffled_rewards", change=_with_shuffled_rewards),
    )
}
STAGES: Mapping[str, StageSpec] = {
    **{spec.name: spec for spec in (_TOKENIZER, _DYNAMICS, _AGENT, _IMAGINATION)},
    **CONTROLS,
}
