"""What a phase reads."""

from collections.abc import Sequence
from pathlib import Path

from embody.config import ActionSpec, Config
from embody.data import Dataset, check_datasets, open_datasets, recorded_actions
from embody.data.sources.source import Source
from embody.errors import UserError
from embody.games import preset, source_of
from embody.logger_manager import LoggerManager
from embody.recording.importing import import_recordings

__all__ = ["Data", "dataset_of", "inputs"]

Data = Dataset | Sequence[Dataset] | object  # an object that a game knows as recordings: `Game.source_of`


def inputs(config: Config, data: Data | None, logger: LoggerManager) -> tuple[Config, list[Dataset]]:
    """The datasets that `data` stands for, by default those of the config's tasks, and the config with their actions.

    What a game knows as recordings becomes a dataset in the run's folder. A `UserError` if no game knows it.
    """
    if data is None:
        datasets = open_datasets(config)
    elif isinstance(data, Dataset | Sequence):
        datasets = [data] if isinstance(data, Dataset) else list(data)
        check_datasets(config, datasets)
    else:
        source = source_of(data, config.env.frame)
        called = source.provenance.get("environment", source.provenance["kind"])
        datasets = [dataset_of(source, config.run_dir / "data" / called, logger)]
    for dataset in datasets:
        if dataset.meta.fps != config.env.fps:
            logger.warning(
                f"dataset {dataset.root} has {dataset.meta.fps} frames a second, the run {config.env.fps}: what is"
                " learned of time will be the dataset's (--env.fps says so)"
            )
    return _acting_by(config, recorded_actions(datasets), logger), datasets


def dataset_of(source: Source, root: Path, logger: LoggerManager) -> Dataset:
    """The recordings of `source` as the dataset `root`; made once, and gone on with if interrupted.

    A `UserError` if `root` was made from others.
    """
    with logger.progress(f"read {root.name}", len(source.names())) as bar:

        def progress(done: int, total: int, skipped: int) -> None:
            bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

        return import_recordings(source, root, progress=progress)


def _acting_by(config: Config, actions: ActionSpec | None, logger: LoggerManager) -> Config:
    """Take over the actions of recordings, where the preset's have not been changed; else they must be equal.

    Actions that differ from the preset's are those of earlier recordings, or were set: models may have been built of
    them, so they are never replaced. A preset has those of one kind of its game's recordings; one's own data has any.
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
