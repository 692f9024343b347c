"""The config that is stored in a run's folder. `Config` itself knows the paths of all other files of a run."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from embody.config import Config, to_dict
from embody.errors import UserError, WriteError
from embody.games import stored_config
from embody.saving.atomic_write import exclusive_lock, write_bytes, write_json
from embody.saving.json_files import read_object

__all__ = ["config_path", "read_config", "record_stage", "write_config"]


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
