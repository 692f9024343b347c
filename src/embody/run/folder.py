"""The config that is stored in a run's folder. `Config` itself knows the paths of all other files of a run."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from embody.config import Config, to_dict
from embody.errors import UserError, WriteError
from embody.games import stored_config
from embody.saving.atomic_write import exclusive_lock, write_bytes, write_json
from embody.saving.json_files import read_object

__all__ = ["check_run_folder", "config_path", "read_config", "record_stage", "write_config"]

# What a run writes into its folder, beside its config.
_OF_A_RUN = frozenset(
    {
        *("ablation", "ablation.json", "cascade.md", "checkpoints", "data", "evaluation.json", "memory.json"),
        *("metrics.jsonl", "pictures", "report.html", "results.json", "results.md", "seconds.json", "simulator"),
        "tensorboard",
    }
)


def check_run_folder(run_dir: Path) -> None:
    """A `UserError` if `run_dir` holds a link, through which a run would write elsewhere, or files but no run."""
    if not run_dir.is_dir():
        return
    for folder, folders, files in os.walk(run_dir):
        for name in (*folders, *files):
            if os.path.islink(path := os.path.join(folder, name)):
                raise UserError(f"{path} is a link, and a run writes into its own folder only: put its target there")
    other = sorted(name for name in os.listdir(run_dir) if name not in _OF_A_RUN and not name.endswith(".tmp"))
    if other and read_config(run_dir) is None:
        raise UserError(f"{run_dir} holds {other[0]} but no run: use another --name")


def config_path(run_dir: Path) -> Path:
    """The file that holds the config of the run in `run_dir`; it exists once the run has begun."""
    return run_dir / "config.json"


def read_config(run_dir: Path) -> Config | None:
    """The config of the run in `run_dir`; None if the run has not begun, a `UserError` if the file cannot be read."""
    path = config_path(run_dir)
    if not path.exists():
        return None
    values = read_object(path, "delete it, or use another --name")
    try:
        return stored_config(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, or use another --name") from error


def write_config(config: Config) -> None:
    """Store `config` in the folder of its run."""
    write_json(config_path(config.run_dir), to_dict(config))


@contextlib.contextmanager
def record_stage(config: Config, stage: str, *, restart: bool = False) -> Iterator[Callable[[], None]]:
    """Store `config` in its run and add the time of the block to that of `stage`; yields what `timed` yields.

    If the block raises, the previous config is restored: the next command must not start from one that cannot work. A
    `UserError` if another process works on the run.
    """
    from embody.run.timing import timed  # imports torch, which reading a config does not need

    path = config_path(config.run_dir)
    with exclusive_lock(config.run_dir):
        previous = path.read_bytes() if path.exists() else None
        write_config(config)
        try:
            with timed(config, stage, restart=restart) as record:
                yield record
        except Exception:
            with contextlib.suppress(WriteError, OSError):  # on a full disk, the error of the block is the one to show
                if previous is None:
                    path.unlink()
                else:
                    write_bytes(path, previous)
            raise
