"""The datasets that a phase reads."""

from collections.abc import Sequence
from pathlib import Path

from embody.config import ActionSpec, Config, check_name
from embody.data import Dataset, check_datasets, open_dataset, open_datasets, recorded_actions
from embody.data.picture import change_of_shape
from embody.data.sources.source import Source
from embody.errors import UserError
from embody.games import preset, source_of
from embody.logger_manager import LoggerManager
from embody.recording.importing import import_recordings

__all__ = ["Data", "import_source", "inputs"]

# A dataset, its folder, or several; any other object is given to `Game.source_of` of each game.
Data = Dataset | str | Path | Sequence[Dataset | str | Path] | object


def inputs(config: Config, data: Data | None, logger: LoggerManager) -> tuple[Config, list[Dataset]]:
    """The config with the datasets' actions, and the datasets: `data`, or by default those of the config's tasks.

    A folder is opened as a dataset. An object that a game recognises as recordings is imported into a dataset in the
    run's folder. A `UserError` if no game recognises it.
    """
    if data is None:
        datasets = open_datasets(config)
    elif isinstance(data, Dataset | str | Path | Sequence):
        datasets = [_opened(one, config) for one in ([data] if isinstance(data, Dataset | str | Path) else data)]
        if not datasets:
            raise UserError("data is an empty list: give one or more datasets (`open_dataset`)")
        check_datasets(config, datasets)
    else:
        source = source_of(data, config.env.frame)
        name = source.provenance.get("environment", source.provenance["kind"])
        check_name("the recordings' name", name)
        datasets = [import_source(source, config.run_dir / "data" / name, logger)]
    for dataset in datasets:
        if dataset.is_video:
            for change in change_of_shape((dataset.meta.height, dataset.meta.width), dataset.size, dataset.meta.fit):
                logger.info(f"dataset {dataset.root}: {change}")
        if dataset.meta.fps != config.env.fps:
            logger.warning(
                f"dataset {dataset.root} has {dataset.meta.fps} frames a second, the run {config.env.fps}: models learn"
                f" the dataset's rate; set --env.fps {dataset.meta.fps}"
            )
    fits = {dataset.meta.fit for dataset in datasets if dataset.is_video}
    if len(fits) > 1:
        logger.warning(
            f"the datasets fit videos to other shapes in different ways ({', '.join(sorted(fits))}): models see both;"
            " import them with one --fit"
        )
    return _take_recorded_actions(config, recorded_actions(datasets), logger), datasets


def _opened(data: object, config: Config) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return open_dataset(data, config.env.frame)
    raise UserError(f"data holds a {type(data).__name__}: give one or more datasets (`open_dataset`)")


def import_source(source: Source, root: Path, logger: LoggerManager) -> Dataset:
    """Import the recordings of `source` into the dataset `root`, unless it is complete; an interrupted import resumes.

    A `UserError` if `root` was imported from another source.
    """
    with logger.progress(f"read {root.name}", len(source.names())) as bar:

        def progress(done: int, total: int, skipped: int) -> None:
            bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

        return import_recordings(source, root, progress=progress)


def _take_recorded_actions(config: Config, actions: ActionSpec | None, logger: LoggerManager) -> Config:
    """`config` with the recordings' actions, if its own are still the preset's; otherwise both must be equal.

    Actions that differ from the preset's were set by the user or taken from earlier recordings. Models may have been
    trained with them, so they are never replaced.
    """
    own = config.env.actions
    if actions is None or actions == own:
        return config
    if own != preset(config.preset).env.actions:
        raise UserError(
            f"the datasets have actions of sizes {actions.sizes}, run {config.name} has {own.sizes}: use another --name"
            " or other datasets"
        )
    logger.info(f"actions taken from the recordings: {len(actions.sizes)} factors of sizes {actions.sizes}")
    return config.with_actions(actions)
