"""Commands on datasets: collect, import, encode."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import tyro

from embody.cli.settings import Command, Preset, Settings
from embody.config import Config
from embody.data.sources.source import Source
from embody.errors import UserError
from embody.games import open_recordings
from embody.logger_manager import LoggerManager
from embody.recording.importing import REPORT, import_recordings, read_report
from embody.trainer import Trainer

__all__ = ["commands"]

_SHOWN = 10  # broken recordings that are named; the report has all


def commands(base: Config) -> tuple[Command, ...]:
    """The commands of this group, with the settings of `base` as defaults."""

    def collect(
        preset: Preset = base.preset, config: Settings = base, episodes: int = base.collect.train_episodes
    ) -> Callable[[], object]:
        """Record demonstrations in the real environment.

        Args:
            episodes: to train on, of each task; short for --collect.train-episodes.
        """
        if episodes != base.collect.train_episodes:
            config = dataclasses.replace(config, collect=dataclasses.replace(config.collect, train_episodes=episodes))
        return lambda: Trainer(config=config).collect()

    def import_(
        kind: tyro.conf.Positional[str],
        source: tyro.conf.Positional[Path],
        name: str | None = None,
        env: str | None = None,
        data_dir: str = base.data_dir,
        runs_dir: str = base.runs_dir,
        logs_dir: str = base.logs_dir,
        workers: int = 2,
        validation_share: float = 0.05,
        reencode: bool = False,
        strict: bool = False,
    ) -> Callable[[], object]:
        """Turn recordings that others made into a dataset; interrupted, the same command goes on.

        Args:
            kind: of recordings: videos (no actions), or one that a game reads; an unknown one lists them all.
            source: the folder, or an index file where the kind has one.
            name: of the dataset in the data folder; by default that of the environment or the kind.
            env: which, of a source of several environments; its only one by default.
            workers: processes that read.
            validation_share: share of the players' sessions that is held out, by the hash of their names.
            reencode: write the videos anew, for random access; otherwise they are read where they are.
            strict: end with an error if a recording was broken and left out.
        """

        if workers < 1:
            raise UserError(f"--workers {workers}: at least one process must read")

        def start() -> None:
            recordings = open_recordings(kind, source, env)
            called = recordings.provenance.get("environment", kind)
            root = Path(data_dir) / (name or called)
            logger = LoggerManager(Path(runs_dir) / "import", Path(logs_dir), f"import-{root.name}")
            _import(recordings, root, logger, strict, workers, validation_share, reencode)

        return start

    def encode(preset: Preset = base.preset, config: Settings = base) -> Callable[[], object]:
        """Turn the datasets into latents, with the trained tokenizer."""
        return lambda: Trainer(config=config).encode()

    return collect, import_, encode


def _import(
    source: Source, root: Path, logger: LoggerManager, strict: bool, workers: int, validation_share: float, encode: bool
) -> None:
    with logger.progress(f"import {root.name}", len(source.names())) as bar:

        def progress(done: int, total: int, skipped: int) -> None:
            bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

        dataset = import_recordings(
            source, root, workers=workers, validation_share=validation_share, encode=encode, progress=progress
        )
    skipped = read_report(root)
    for broken in skipped[:_SHOWN]:
        logger.warning(f"skipped {broken.file}: {broken.where}: {broken.what}")
    if len(skipped) > _SHOWN:
        logger.warning(f"skipped {len(skipped) - _SHOWN} more: see {root / REPORT}")
    repaired = f"; once repaired, they are imported by another --name, or after deleting {root}" if skipped else ""
    logger.info(
        f"{root} is finished: {len(dataset.episodes())} episodes, {len(skipped)} broken recordings left out{repaired}"
    )
    if skipped and strict:
        raise UserError(f"{len(skipped)} recordings are broken: see {root / REPORT}")
