"""Dynamics: predicts the next latents from the history and the action; trained by shortcut forcing."""

from embody.dynamics.model import Dynamics, Prediction
from embody.dynamics.shortcut import ShortcutLoss

__all__ = ["Dynamics", "Prediction", "ShortcutLoss"]
