"""The policies that an evaluation measures, in the order in which they are shown."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["POLICIES", "MeasuredPolicy", "title_of"]


@dataclass(frozen=True)
class MeasuredPolicy:
    """How tables, charts and the report present a policy."""

    name: str  # short, for charts
    colour: str  # a style of `Bar`
    meaning: str  # how it was made, and what its result shows
    control: bool = False

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"control: {self.name}" if self.control else self.name


POLICIES: Mapping[str, MeasuredPolicy] = {
    "random": MeasuredPolicy("random", "e", "Draws every action uniformly."),
    "demonstrations": MeasuredPolicy(
        "demonstrations", "d", "The held-out recordings: how often their players succeed."
    ),
    "cloning": MeasuredPolicy(
        "behaviour cloning", "a", "Imitates the demonstrations, with the world model's features as input (phase 2)."
    ),
    "imagination": MeasuredPolicy(
        "imagination", "b", "The same policy after reinforcement learning in dreams, without the environment (phase 3)."
    ),
    "no_world_model": MeasuredPolicy(
        "no world model",
        "c",
        "Behaviour cloning from an untrained world model. Its distance to behaviour cloning is what the world model"
        " brings to imitation.",
        control=True,
    ),
    "best_demonstrations": MeasuredPolicy(
        "best demonstrations",
        "c",
        "Behaviour cloning of only those expert episodes that have no random actions. If it does as well as"
        " imagination, choosing the data does as much as reinforcement learning.",
        control=True,
    ),
    "shuffled_rewards": MeasuredPolicy(
        "shuffled rewards",
        "c",
        "Imagination where dreams exchange their rewards at random. If it gains as much as imagination, the gain does"
        " not come from the rewards.",
        control=True,
    ),
}


def title_of(policy: str) -> str:
    """The policy's name in tables; the key itself if the policy is unknown."""
    return POLICIES[policy].title if policy in POLICIES else policy
