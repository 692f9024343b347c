"""The imagined world, in which tokenizer, dynamics and agent run together."""

from embody.imagination.dream import Dream, DreamStep, Imagined
from embody.imagination.environment import DreamEnv
from embody.imagination.player import Player

__all__ = ["Dream", "DreamEnv", "DreamStep", "Imagined", "Player"]
