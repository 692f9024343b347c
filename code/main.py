"""The functions of the first request, `train_tokenizer(trainer, data)` and its siblings, and `main` of `embody`."""

from embody.cli import main
from embody.run.inputs import Data
from embody.trainer import Trainer

__all__ = ["evaluate", "main", "train_agent", "train_dynamics", "train_imagination", "train_tokenizer"]


def train_tokenizer(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 1a on `data`: a dataset or several (by default those of the trainer's tasks), or a MineRL pipeline."""
    trainer.train_tokenizer(data)


def train_dynamics(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 1b: encode `data` if need be, then train the dynamics."""
    trainer.encode(data)
    trainer.train_dynamics(data)


def train_agent(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 2."""
    trainer.train_agent(data)


def train_imagination(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 3."""
    trainer.train_imagination(data)


def evaluate(trainer: Trainer, data: Data | None = None) -> None:
    """Success in the real environment, and the world model in closed loop."""
    trainer.evaluate(data)
