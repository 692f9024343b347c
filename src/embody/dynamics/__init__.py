"""Dynamics: what the next latents are, given the past and the action, by shortcut forcing."""

from embody.dynamics.model import Dynamics, Prediction
from embody.dynamics.shortcut import ShortcutLoss

__all__ = ["Dynamics", "Prediction", "ShortcutLoss"]
