"""How a dataset refers to its video files, so that both can be moved together."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from embody.errors import UserError

__all__ = ["find_videos", "located", "reference"]


def reference(root: Path, path: Path) -> str:
    """How the dataset in the folder `root` refers to the file or folder `path`; both must exist.

    The reference is a path relative to `root` where both are on one file system and share a folder other than `/`, else
    an absolute path. Links to folders are followed, as `..` would leave a link by another way than it was entered.
    """
    if path.absolute().is_relative_to(root.absolute()):
        return path.absolute().relative_to(root.absolute()).as_posix()
    base, real = root.resolve(), path.parent.resolve() / path.name
    share_a_folder = os.path.commonpath([base, real]) != base.anchor
    if share_a_folder and base.stat().st_dev == real.stat().st_dev:
        return Path(os.path.relpath(real, base)).as_posix()
    return real.as_posix()


def located(root: Path, referred: str) -> Path:
    """The path of the file that the dataset in the folder `root` refers to by `referred`."""
    path = Path(referred)
    if path.is_absolute() or path.parts[:1] != ("..",):
        return root / path
    return Path(os.path.normpath(root.resolve() / path))


def find_videos(root: Path, identities: Mapping[str, str]) -> dict[str, Path]:
    """The path of each video file by its reference; `identities` has what `identity` said of them at the import.

    A `UserError` names a file that is missing or has another size. The content is checked on reading.
    """
    paths = {referred: located(root, referred) for referred in identities}
    for referred, path in paths.items():
        try:
            size = path.stat().st_size
        except OSError as error:
            command = f"embody data relocate {shlex.quote(str(root))} FOLDER"
            raise UserError(
                f"video {path} is missing: restore it, or say where all videos of the dataset are now: `{command}`"
            ) from error
        if size != int(identities[referred].split("-")[0]):
            raise UserError(f"video {path} has changed since the import: restore it, or import the recordings again")
    return paths
