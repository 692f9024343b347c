"""What a phase reads."""

from collections.abc import Sequence

from embody.config import ActionSpec, Config
from embody.data import Dataset, check_datasets, open_datasets, recorded_actions
from embody.errors import UserError
from embody.games import preset
from embody.games.minecraft.pipeline import Pipeline
from embody.logger_manager import LoggerManager
from embody.recording.pipeline import dataset_of_pipeline

__all__ = ["Data", "inputs"]

Data = Dataset | Sequence[Dataset] | Pipeline


def inputs(config: Config, data: Data | None, logger: LoggerManager) -> tuple[Config, list[Dataset]]:
    """The datasets that `data` stands for, by default those of the config's tasks, and the config with their actions.

    What `minerl.data.make` returns becomes a dataset in the run's folder.
    """
    if data is None:
        datasets = open_datasets(config)
    elif isinstance(data, Pipeline):
        root = config.run_dir / "data" / data.environment
        datasets = [dataset_of_pipeline(data, root, *config.env.frame, logger)]
    else:
        datasets = [data] if isinstance(data, Dataset) else list(data)
        check_datasets(config, datasets)
    for dataset in datasets:
        if dataset.meta.fps != config.env.fps:
            logger.warning(
                f"dataset {dataset.root} has {dataset.meta.fps} frames a second, the run {config.env.fps}: what is"
                " learned of time will be the dataset's (--env.fps says so)"
            )
    return _acting_by(config, recorded_actions(datasets), logger), datasets


def _acting_by(config: Config, actions: ActionSpec | None, logger: LoggerManager) -> Config:
    """Take over the actions of recordings, where the preset's have not been changed; else they must be equal.

    Actions that differ from the preset's are those of earlier recordings, or were set: models may have been built of
    them, so they are never replaced.
    Minecraft's presets have VPT's, MineRL 0.4.4 others for each kind of environment, and one's own data any.
    """
    own = config.env.actions
    if actions is None or actions == own:
        return config
    if own != preset(config.preset).env.actions:
        raise UserError(
            f"the datasets have actions {actions.sizes}, the run {own.sizes}: use another --name, or other datasets"
        )
    logger.info(f"actions are those of the recordings: {len(actions.sizes)} factors {actions.sizes}")
    return config.acting_by(actions)
