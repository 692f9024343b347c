"""What `minerl.data.make` returns as a dataset."""

from pathlib import Path

from embody.data import Dataset
from embody.games.minecraft.pipeline import Pipeline, PipelineSource
from embody.logger_manager import LoggerManager
from embody.recording.importing import import_recordings

__all__ = ["dataset_of_pipeline"]


def dataset_of_pipeline(pipeline: Pipeline, root: Path, height: int, width: int, logger: LoggerManager) -> Dataset:
    """The pipeline's trajectories as the dataset `root`, frames resized; made once, and gone on with if interrupted.

    As in all that the package gives, the last frame of a trajectory is the one before it. A `UserError` if it is of an
    environment that is not known, or `root` was made from other trajectories.
    """
    source = PipelineSource(pipeline, height, width)
    with logger.progress(f"read {pipeline.environment}", len(source.names())) as bar:

        def progress(done: int, total: int, skipped: int) -> None:
            bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

        return import_recordings(source, root, progress=progress)
