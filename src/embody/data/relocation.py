"""Moving the video files that a dataset refers to."""

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embody.data.container import identity
from embody.data.dataset import read_meta
from embody.data.video_files import located, reference
from embody.data.writer import write_table
from embody.errors import UserError
from embody.saving.atomic_write import exclusive_lock

__all__ = ["relocate"]

_NAMED = 3  # files that a message names


def relocate(root: Path, folder: Path) -> int:
    """Make the dataset in `root` refer to the same video files below `folder`, and return their number.

    The files must lie in `folder` as they did in the folder that held them all, or in one of its subfolders of the same
    name as before. The dataset's fingerprint stays, and with it the latents. A `UserError` names files that are missing
    or whose `identity` is another one; then nothing is changed.
    """
    if not (root / "meta.json").exists():
        raise UserError(f"no dataset in {root}: name the folder of a dataset")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder that holds the videos now")
    read_meta(root)
    with exclusive_lock(root):
        table = _table(root)
        identities = _outside(table)
        if not identities:
            raise UserError(f"dataset {root} refers to no file outside of its folder: it can be moved as it is")
        found = _find(root, folder, identities)
        moved = [found.get(video, video) for video in table["video"].to_pylist()]
        place = table.column_names.index("video")
        table = table.set_column(place, table.schema.field(place), pa.array(moved, pa.string()))
        write_table(root / "episodes.parquet", table)
    return len(found)


def _table(root: Path) -> pa.Table:
    try:
        return pq.read_table(root / "episodes.parquet")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"dataset {root} is damaged or empty ({str(error).splitlines()[0]})") from error


def _outside(table: pa.Table) -> dict[str, str]:
    """The identities of the files outside of the dataset's folder, by reference."""
    if "video" not in table.column_names:
        return {}
    rows = zip(table["video"].to_pylist(), table["video_identity"].to_pylist(), strict=True)
    return {video: known for video, known in rows if video and (video.startswith("../") or os.path.isabs(video))}


def _find(root: Path, folder: Path, identities: Mapping[str, str]) -> dict[str, str]:
    """The new reference to each file by its old one."""
    old = {video: located(root, video) for video in identities}
    above = Path(os.path.commonpath([path.parent for path in old.values()]))
    # `folder` may be that folder itself, or one further up that holds the end of its path.
    ends = [Path(*above.parts[place:]) for place in range(len(above.parts), 0, -1)]
    layouts = [{video: folder / end / path.relative_to(above) for video, path in old.items()} for end in ends]
    new = max(layouts, key=lambda layout: sum(path.is_file() for path in layout.values()))
    missing = sorted(path for path in new.values() if not path.is_file())
    other = sorted(path for video, path in new.items() if path.is_file() and identity(path) != identities[video])
    if missing or other:
        said = [
            f"{_some(paths)} {what}" for paths, what in ((missing, "missing"), (other, "of other content")) if paths
        ]
        raise UserError(f"dataset {root} is not changed: {'; '.join(said)}")
    return {video: reference(root, path) for video, path in new.items()}


def _some(paths: list[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{', '.join(map(str, paths[:_NAMED]))}{more} {'is' if len(paths) == 1 else 'are'}"
