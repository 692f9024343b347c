"""Importing recordings into a dataset, in parallel. After a kill, the same call resumes."""

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from embody.config import from_dict
from embody.data import (
    Dataset,
    DatasetWriter,
    Episode,
    Video,
    exclusive_lock,
    is_complete,
    open_dataset,
    reencode,
    write_json,
    write_text,
)
from embody.data.sources.source import Source
from embody.data.video_files import reference
from embody.errors import UserError, WriteError, one_line
from embody.recording.workers import worker_pool
from embody.saving.json_files import read_object

__all__ = ["REPORT", "Changed", "Skipped", "import_recordings", "read_changes", "read_other_files", "read_report"]

RECORD = "import.json"  # in the dataset's folder: what it was imported from
REPORT = "import-report.json"
_LONGEST = 500  # characters that say what is wrong with a recording
_AHEAD = 4  # recordings of each worker that may wait in memory

T = TypeVar("T")
Progress = Callable[[int, int, int], None]  # recordings done, their total, recordings skipped


@dataclass(frozen=True)
class Skipped:
    """A broken recording, which was left out."""

    file: str  # name of the recording
    what: str  # what is wrong
    where: str  # one of its files, and the line if there is one


@dataclass(frozen=True)
class Changed:
    """A recording that became an episode with changes."""

    file: str  # name of the recording
    changes: tuple[str, ...]  # see `Episode.changes`


@dataclass(frozen=True)
class _Shard:
    split: str
    names: tuple[str, ...]


def import_recordings(
    source: Source,
    root: Path,
    *,
    workers: int = 1,
    validation_share: float = 0.05,
    encode: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Write the recordings of `source` as the dataset `root`, splits "train" and "validation".

    The episodes, their order and their splits depend on the source and `validation_share` (0 to below 1) only. Broken
    recordings are left out. `root/import-report.json` lists them, what was changed in others, and the files that are no
    recordings. `encode` writes a copy of each video for random access into `root`; otherwise the dataset refers to the
    original files. With more than one worker, processes are spawned, so a script that calls this needs
    `if __name__ == "__main__"`.

    A `UserError` if there is no readable recording, or if `root` was imported from something else.
    """
    if not 0 <= validation_share < 1:
        raise UserError(f"validation share must be at least 0 and below 1, got {validation_share}")
    names = source.names()
    provenance = source.provenance | {
        "reencode": encode,
        "validation_share": validation_share,
        "recordings": len(names),
        "names": hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest()[:16],
    }
    _check_folder(root, provenance)
    progress = progress or (lambda done, total, skipped: None)
    if is_complete(root):
        progress(len(names), len(names), len(read_report(root)))
        return open_dataset(root)
    meta = source.meta()
    with exclusive_lock(root), worker_pool(workers) as pool:
        writer = DatasetWriter(root, meta)
        write_json(root / RECORD, _record(root, provenance))
        other_files = source.other_files()
        skipped = {broken.file: broken for broken in read_report(root)}
        changed = {recording.file: recording for recording in read_changes(root)}
        shards = _shards(source, names, validation_share)
        pending = _pending(shards, {split: writer.shards(split) for split in ("train", "validation")}, skipped)
        done = len(names) - sum(len(shard.names) for shard in pending)
        progress(done, len(names), len(skipped))
        results = _read_all(source, [name for shard in pending for name in shard.names], root, encode, pool, workers)
        for shard in pending:
            episodes = []
            for name in shard.names:
                result = next(results)
                if isinstance(result, Skipped):
                    skipped[result.file] = result
                else:
                    skipped.pop(name, None)  # it was repaired since the last call
                    episodes.append(result)
                    if result.changes:
                        changed[name] = Changed(name, result.changes)
                done += 1
                progress(done, len(names), len(skipped))
            # The report is written before the shard, because resuming needs to know which shards are empty.
            _write_report(root, list(skipped.values()), list(changed.values()), other_files)
            if episodes:
                writer.write_shard(shard.split, writer.shards(shard.split), episodes)
        if len(skipped) == len(names):
            first = next(iter(skipped.values()))
            raise UserError(f"none of {len(names)} recordings can be read: {first.file}, {first.where}: {first.what}")
        writer.finish()
    return open_dataset(root)


def _shards(source: Source, names: Sequence[str], validation_share: float) -> list[_Shard]:
    """All recordings, in the order in which they are written. A hash of its name decides the split of a group."""
    places = {group: _hash_fraction(group) for group in map(source.group, names)}
    validation = {group for group, place in places.items() if place < validation_share}
    in_order = sorted(places, key=lambda group: places[group])
    if validation_share and not validation:  # at least one group
        validation = set(in_order[:1])
    if len(validation) == len(places):  # but not all
        validation.remove(in_order[-1])
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    for name in names:
        splits["validation" if source.group(name) in validation else "train"].append(name)
    return [
        _Shard(split, tuple(members[first : first + source.shard_size]))
        for split, members in splits.items()
        for first in range(0, len(members), source.shard_size)
    ]


def _hash_fraction(group: str) -> float:
    """A hash of `group` in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"split {group}".encode(errors="surrogatepass")).digest()[:7]) / 256**7


def _pending(shards: Sequence[_Shard], written: dict[str, int], skipped: dict[str, Skipped]) -> list[_Shard]:
    """The shards to read: all but those that are written, and empty ones before a written one.

    Empty shards after the last written one are read again, as their files may have been repaired.
    """
    pending, place = [], {"train": 0, "validation": 0}
    for shard in shards:
        if place[shard.split] >= written[shard.split]:
            pending.append(shard)
        place[shard.split] += not all(_in_utf8(name) in skipped for name in shard.names)
    return pending


# --- one recording --------------------------------------------------------------------------------------------------


def _read_all(
    source: Source, names: Sequence[str], root: Path, encode: bool, pool: ProcessPoolExecutor | None, workers: int
) -> Iterator[Episode | Skipped]:
    """The episode of each recording, or why it is skipped, in order. Only a few are in memory at a time."""
    if pool is None:
        yield from (_read(source, name, root, encode) for name in names)
        return
    waiting: deque[Future[Episode | Skipped]] = deque()
    for name in names:
        waiting.append(pool.submit(_read_in_worker, source, name, root, encode))
        if len(waiting) > _AHEAD * workers:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


@lru_cache(maxsize=1)
def _cached(source: Source) -> Source:
    """The first source that equals this one; it has its cached properties, such as the lines of an index."""
    return source


def _read_in_worker(source: Source, name: str, root: Path, encode: bool) -> Episode | Skipped:
    """`_read` in a process of the pool, which keeps the source's cached properties between calls."""
    return _read(_cached(source), name, root, encode)


def _read(source: Source, name: str, root: Path, encode: bool) -> Episode | Skipped:
    if name != _in_utf8(name):
        return Skipped(_in_utf8(name), "its name is not UTF-8: rename it", _in_utf8(name))
    try:
        episode = source.read(name)
        if encode and isinstance(episode.frames, Video):
            target = root / "videos" / f"{name}.mp4"
            episode = replace(episode, frames=reencode(episode.frames, target, fps=source.meta().fps))
    except WriteError:
        raise  # the recording is not to blame
    except (ValueError, OSError) as error:
        return _skipped(name, str(source.provenance["source"]), one_line(error, _LONGEST))
    except Exception as error:  # damaged bytes may raise anything; the other recordings are still imported
        return Skipped(name, one_line(f"{type(error).__name__}: {error}", _LONGEST), name)
    return episode


def _in_utf8(name: str) -> str:
    """`name` as the report has it: bytes of a file's name that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _skipped(name: str, folder: str, said: str) -> Skipped:
    """Parse a message of the form `FILE[, line N]: what is wrong`."""
    where, colon, what = said.partition(": ")
    if not colon:
        where, what = "", said
    inside = re.sub(rf"^{re.escape(folder)}/?", "", where)
    return Skipped(name, what, inside or Path(folder).name)


# --- beside the dataset ---------------------------------------------------------------------------------------------


def _check_folder(root: Path, provenance: dict[str, Any]) -> None:
    """A `UserError` if `root` holds a dataset that was not imported, or from something else."""
    if not (root / RECORD).exists():
        if (root / "meta.json").exists() and is_complete(root):
            raise UserError(f"{root} holds a dataset that was not imported: choose another --name")
        return
    found = read_object(root / RECORD, f"delete {root} and import again")
    for name, value in _record(root, provenance).items():
        if found.get(name) not in (value, provenance[name]):
            raise UserError(
                f"dataset {root} was imported with {name} {found.get(name)}, now it would be {value}: choose another"
                " --name, or delete this one"
            )


def _record(root: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """`provenance` as it is stored: its source is a reference, so that dataset and source can be moved together."""
    source = Path(provenance["source"])
    is_place = source.is_absolute() and source.exists()
    return provenance | {"source": reference(root, source) if is_place else str(source)}


def read_report(root: Path) -> list[Skipped]:
    """The recordings that were left out of the dataset in `root`."""
    return _listed(root, "skipped", lambda line: from_dict(Skipped, line))


def read_changes(root: Path) -> list[Changed]:
    """The recordings of the dataset in `root` that the import changed."""
    return _listed(root, "changed", lambda line: from_dict(Changed, line))


def read_other_files(root: Path) -> dict[str, str]:
    """The files beside the recordings of the dataset in `root`, and why each is none."""
    return dict(_listed(root, "other_files", lambda line: (str(line["file"]), str(line["reason"]))))


def _listed(root: Path, name: str, read: Callable[[Any], T]) -> list[T]:
    """The lines of one of the report's lists; a `UserError` if they are not what this version writes."""
    path, remedy = root / REPORT, "delete it and import again"
    lists = read_object(path, remedy) if path.exists() else {}
    try:
        return [read(line) for line in lists.get(name, [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was written by another version ({error}): {remedy}") from error


def _write_report(
    root: Path, skipped: Sequence[Skipped], changed: Sequence[Changed], other_files: Mapping[str, str]
) -> None:
    """Write the report, one line for each recording or file."""
    lists = {
        "skipped": [asdict(broken) for broken in skipped],
        "changed": [asdict(recording) for recording in changed],
        "other_files": [{"file": name, "reason": reason} for name, reason in other_files.items()],
    }
    texts = []
    for name, values in lists.items():
        lines = [json.dumps(value, ensure_ascii=False) for value in values]
        texts.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
    write_text(root / REPORT, "{" + ", ".join(texts) + "}\n")
