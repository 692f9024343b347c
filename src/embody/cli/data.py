"""Commands on datasets: collect, import, encode, data relocate."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from embody.cli.settings import Preset, Settings, trainer
from embody.config import Config, Fit, check_name
from embody.errors import UserError
from embody.games import open_recordings

if TYPE_CHECKING:
    from embody.data.sources.source import Source
    from embody.logger_manager import LoggerManager

__all__ = ["Collect", "Encode", "Import", "Relocate"]

_SHOWN = 10  # recordings of each kind that are named; the report has all


@dataclass(frozen=True)
class Collect:
    """Record demonstrations in the real environment.

    Scripted experts, at several levels of noise, and random policies play each task; the episodes become one dataset a
    task in DATA_DIR. A collection that was interrupted goes on where it stopped.
    """

    preset: Preset = Config.preset
    config: Settings = Config()
    episodes: int | None = None
    """Number of training episodes of each task, at least 1; short for --collect.train-episodes."""

    def start(self, typed: str) -> None:
        config = self.config
        if self.episodes is not None:
            collected = dataclasses.replace(config.collect, train_episodes=self.episodes)
            config = dataclasses.replace(config, collect=collected)
        trainer(config).collect()


@dataclass(frozen=True)
class Import:
    """Turn recordings that others made into a dataset.

    An import that was interrupted goes on where it stopped, with the same command.
    """

    kind: tyro.conf.Positional[str]
    source: tyro.conf.Positional[Path]
    """Folder of the recordings, or an index file where the kind has one."""
    name: str | None = None
    """Name of the dataset in the data folder. Without it, the name is that of the environment or of KIND."""
    env: str | None = None
    """The environment whose recordings are read, needed only where SOURCE has recordings of several."""
    data_dir: str = Config.data_dir
    """Folder of all datasets."""
    runs_dir: str = Config.runs_dir
    """Folder of all runs; the metrics of the import go to its folder `import`."""
    logs_dir: str = Config.logs_dir
    """Folder of the log files."""
    fit: Fit | None = None
    """Videos of another shape than the frames keep their proportions between black bars (letterbox), are cut (crop), or
    lose their proportions (stretch). Without it, vpt is stretched, as its simulator's frames are, and videos are
    letterboxed."""
    fps: int | None = None
    """Recordings are brought to this number of frames a second; without it, to the most common one, rounded."""
    workers: int = 2
    """Number of processes that read recordings, at least 1."""
    validation_share: float = 0.05
    """Share of the players' sessions that is held out for validation, from 0 to 1, chosen by the hash of a name."""
    reencode: bool = False
    """Write each video anew, so that any frame is found fast. Without it, videos are read where they are."""
    strict: bool = False
    """End with an error if a recording was broken and left out."""

    def start(self, typed: str) -> None:
        from embody.logger_manager import LoggerManager

        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: at least one process must read")
        if self.fps is not None and self.fps < 1:
            raise UserError(f"--fps {self.fps}: must be at least 1")
        recordings = open_recordings(self.kind, self.source, self.env, fit=self.fit, fps=self.fps)
        called = recordings.provenance.get("environment", self.kind)
        check_name("--name", called if self.name is None else self.name)
        root = Path(self.data_dir) / (self.name or called)
        logger = LoggerManager(Path(self.runs_dir) / "import", Path(self.logs_dir), f"import-{root.name}")
        self._import(recordings, root, logger)

    def _import(self, source: "Source", root: Path, logger: "LoggerManager") -> None:
        from embody.recording.importing import (
            REPORT,
            import_recordings,
            read_changes,
            read_other_files,
            read_report,
        )

        with logger.progress(f"import {root.name}", len(source.names())) as bar:

            def progress(done: int, total: int, skipped: int) -> None:
                bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

            dataset = import_recordings(
                source,
                root,
                workers=self.workers,
                validation_share=self.validation_share,
                encode=self.reencode,
                progress=progress,
            )
        skipped = read_report(root)
        for say, done, lines in (
            (logger.info, "changed", [f"{one.file}: {'; '.join(one.changes)}" for one in read_changes(root)]),
            (logger.info, "left alone", [f"{name}: {reason}" for name, reason in read_other_files(root).items()]),
            (logger.warning, "skipped", [f"{broken.file}: {broken.where}: {broken.what}" for broken in skipped]),
        ):
            for line in lines[:_SHOWN]:
                say(f"{done} {line}")
            if len(lines) > _SHOWN:
                say(f"{done} {len(lines) - _SHOWN} more: see {root / REPORT}")
        repaired = f"; once repaired, they are imported by another --name, or after deleting {root}" if skipped else ""
        logger.info(
            f"{root} is finished: {len(dataset.episodes())} episodes, {len(skipped)} broken recordings left"
            f" out{repaired}"
        )
        if skipped and self.strict:
            raise UserError(f"{len(skipped)} recordings are broken: see {root / REPORT}")


@dataclass(frozen=True)
class Encode:
    """Turn the datasets into latents with the trained tokenizer.

    The dynamics and the agent train on the latents, so each frame is encoded only once. `embody run` does this too.
    """

    preset: Preset = Config.preset
    config: Settings = Config()

    def start(self, typed: str) -> None:
        trainer(self.config).encode()


@dataclass(frozen=True)
class Relocate:
    """Make a dataset refer to its video files in another folder.

    For videos that were moved without their dataset, or the dataset without them. All files must be there with the
    names and the content of the import. Latents of the dataset stay valid.
    """

    dataset: tyro.conf.Positional[Path]
    """The dataset: its folder, or its name in the data folder."""
    new_root: tyro.conf.Positional[Path]
    """The folder that holds the videos now, with the same subfolders as before."""
    data_dir: str = Config.data_dir
    """Folder of all datasets."""

    def start(self, typed: str) -> None:
        from embody.data import relocate

        named = Path(self.data_dir) / self.dataset
        root = named if (named / "meta.json").exists() else self.dataset
        count = relocate(root, self.new_root)
        print(f"{root} now refers to {count} video files in {self.new_root}")
