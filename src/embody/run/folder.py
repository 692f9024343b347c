"""The config that a run's folder keeps; where everything else of a run is, `Config` says."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from embody.config import Config, to_dict
from embody.errors import UserError
from embody.games import stored_config
from embody.saving.atomic_write import atomic_write, write_json

__all__ = ["config_path", "read_config", "recorded", "write_config"]


def config_path(run_dir: Path) -> Path:
    """Where the settings of a run are, if it has begun."""
    return run_dir / "config.json"


def read_config(run_dir: Path) -> Config | None:
    """The settings of a run, None if there is no such run; a `UserError` if they cannot be read."""
    path = config_path(run_dir)
    if not path.exists():
        return None
    try:
        return stored_config(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, or use another --name") from error


def write_config(config: Config) -> None:
    """Make `config` that of its run."""
    write_json(config_path(config.run_dir), to_dict(config))


@contextlib.contextmanager
def recorded(config: Config, stage: str, *, anew: bool = False) -> Iterator[Callable[[], None]]:
    """Make `config` that of its run, and keep the time of the block as that of `stage`; yields as `timed` does.

    An error puts the former config back: the next command must not start from one that cannot work.
    """
    from embody.run.timing import timed  # imports torch, which reading a config does not need

    path = config_path(config.run_dir)
    before = path.read_bytes() if path.exists() else None
    write_config(config)
    try:
        with timed(config, stage, anew=anew) as record:
            yield record
    except Exception:
        if before is None:
            path.unlink()
        else:
            with atomic_write(path) as temporary:
                temporary.write_bytes(before)
        raise
