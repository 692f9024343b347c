"""Settings, and what the first request calls their defaults."""

from embody.config import *  # noqa: F403
from embody.config import Config
from embody.games import *  # noqa: F403
from embody.games import preset

_DEFAULT = preset("minigrid")


class GameConfig:
    """Where data and weights go by default; read on the class."""

    DATA_DIR = Config.data_dir
    MODELS_DIR = Config.models_dir


class TrainConfig:
    """Epochs of the phases by default; read on the class."""

    train_tokenizer_epochs = _DEFAULT.train_tokenizer.epochs
    train_dynamics_epochs = _DEFAULT.train_dynamics.epochs
    train_agent_epochs = _DEFAULT.train_agent.epochs


Tasks = _DEFAULT.env.tasks
