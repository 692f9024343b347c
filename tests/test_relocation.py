"""Datasets that refer to video files, and what becomes of them when either is moved."""

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from embody.cli import main
from embody.data import Dataset, LatentWriter, open_dataset, open_latents, relocate
from embody.data.sources.videos import VideoSource
from embody.data.video_files import located, reference
from embody.errors import UserError
from embody.recording.importing import import_recordings

NAMES = ("a.mp4", "b/c.mp4")


def write_video(path: Path, frames: int = 6, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height = stream.width = 32
        for number in range(frames):
            pixels = np.full((32, 32, 3), shade + 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with videos, `films`, and the dataset `data/films` of them, which has latents."""
    project = tmp_path / "home" / "project"
    for number, name in enumerate(NAMES):
        write_video(project / "films" / name, 6 + number, 20 * number)
    encode(import_recordings(VideoSource(project / "films"), project / "data" / "films"))
    return project


def encode(dataset: Dataset) -> None:
    writer = LatentWriter(dataset, "h", 2, 4)
    for shard in writer.pending():
        with writer.filling(shard) as latents:
            latents[:] = 1


def stored(root: Path) -> list[str]:
    return sorted(pq.read_table(root / "episodes.parquet")["video"].to_pylist())


def check(root: Path, films: Path, fingerprint: str) -> None:
    """The dataset opens, refers to the files in `films`, and its latents are valid."""
    dataset = open_dataset(root)
    assert dataset.fingerprint == fingerprint
    for row in dataset.episodes():
        assert dataset.episode(row.id).frames.path == films / row.source  # type: ignore[union-attr]
        assert dataset.frames(row.id, 0, row.length).shape == (row.length, 32, 32, 3)
    assert open_latents(dataset, "h").slice(0, 0, 2).shape == (2, 2, 4)


def test_dataset_and_videos_are_moved_together(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project / "data" / "films"
    fingerprint = open_dataset(root).fingerprint
    assert stored(root) == ["../../films/a.mp4", "../../films/b/c.mp4"]
    new = project.rename(project.parent / "another place")
    check(new / "data" / "films", new / "films", fingerprint)
    again = import_recordings(VideoSource(new / "films"), new / "data" / "films")  # the same import, which is done
    assert again.fingerprint == fingerprint
    copy = shutil.copytree(new, new.parent / "deeper" / "copy")
    shutil.rmtree(new)
    monkeypatch.chdir(copy)
    check(Path("data/films"), copy / "films", fingerprint)


def test_paths_of_old_datasets_are_read(project: Path) -> None:
    root = project / "data" / "films"
    table = pq.read_table(root / "episodes.parquet")
    place = table.column_names.index("video")
    videos = [[str(located(root, video)) for video in table["video"].to_pylist()]]
    fingerprint = open_dataset(root).fingerprint
    pq.write_table(table.set_column(place, table.schema.field(place), videos), root / "episodes.parquet")
    check(root, project / "films", fingerprint)


def test_a_reference_is_relative_where_both_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one/data", "one/films", "far/deep"):
        (tmp_path / folder).mkdir(parents=True)
    video = tmp_path / "one" / "films" / "a.mp4"
    video.touch()
    monkeypatch.chdir(tmp_path / "one")
    for root in (Path("data"), tmp_path / "one" / "data"):
        for path in (Path("films/a.mp4"), Path("data/../films/a.mp4"), video):
            found = reference(root, path)
            assert (root / found).samefile(video) and located(root, found).samefile(video)
    assert reference(Path("data"), video) == "../films/a.mp4"
    (tmp_path / "one" / "data" / "own.mp4").touch()
    assert reference(Path("data"), Path("data/own.mp4")) == "own.mp4"
    assert located(Path("data"), "own.mp4") == Path("data/own.mp4")
    link = tmp_path / "far" / "deep" / "link"  # leaving it by `..` leads to where it points
    link.symlink_to(tmp_path / "one" / "data")
    assert reference(link, video) == "../films/a.mp4" and located(link, "../films/a.mp4") == video
    assert reference(Path("data"), Path("/etc/hostname")) == "/etc/hostname"  # no folder in common
    if os.stat("/proc").st_dev != tmp_path.stat().st_dev:
        monkeypatch.setattr(os.path, "commonpath", lambda paths: "/shared")
        assert reference(Path("data"), Path("/proc/version")) == "/proc/version"  # another file system


@pytest.mark.parametrize(
    "to, named", [("reels", "reels"), ("films", "."), ("disk/project/films", "disk"), ("disk/films", "disk/films")]
)
def test_videos_are_found_in_their_new_folder(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, named: str
) -> None:
    root, new = project / "data" / "films", tmp_path / "mnt" / to
    fingerprint = open_dataset(root).fingerprint
    new.parent.mkdir(parents=True, exist_ok=True)
    (project / "films").rename(new)
    with pytest.raises(UserError, match=rf"mp4 is missing: .*`embody data relocate {root} FOLDER`"):
        open_dataset(root)
    main(["data", "relocate", str(root), str(tmp_path / "mnt" / named)])
    assert f"{root} now refers to 2 video files in {tmp_path / 'mnt' / named}" in capsys.readouterr().out
    check(root, new, fingerprint)
    main(["data", "relocate", "films", str(new), "--data-dir", str(project / "data")])  # once more, by its name
    check(root, new, fingerprint)


def test_the_dataset_alone_is_moved(project: Path, tmp_path: Path) -> None:
    fingerprint = open_dataset(project / "data" / "films").fingerprint
    root = tmp_path / "x"
    (project / "data" / "films").rename(root)
    relocate(root, project / "films")
    check(root, project / "films", fingerprint)


def test_files_that_are_missing_or_others_are_named_and_nothing_is_changed(project: Path, tmp_path: Path) -> None:
    root, new = project / "data" / "films", tmp_path / "new"
    (project / "films").rename(new)
    before = (root / "episodes.parquet").read_bytes()
    content = (new / "a.mp4").read_bytes()
    (new / "a.mp4").write_bytes(content[:-1] + b"x")
    (new / "b" / "c.mp4").rename(new / "c.mp4")
    with pytest.raises(UserError) as raised:
        relocate(root, new)
    said = str(raised.value)
    assert f"{new}/b/c.mp4 is missing; {new}/a.mp4 is of other content" in said and "\n" not in said
    assert (root / "episodes.parquet").read_bytes() == before
    with pytest.raises(UserError, match="none is not a folder"):
        relocate(root, tmp_path / "none")
    with pytest.raises(UserError, match="no dataset in"):
        relocate(new, new)


def test_many_missing_files_are_counted(project: Path, tmp_path: Path) -> None:
    films = project / "more"
    for number in range(6):
        write_video(films / f"{number}.mp4", 2)
    import_recordings(VideoSource(films), project / "data" / "more")
    films.rename(tmp_path / "old")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"0.mp4, \S+1.mp4, \S+2.mp4 and 3 more are missing$"):
        relocate(project / "data" / "more", tmp_path / "empty")


def test_a_dataset_with_its_own_videos_needs_no_relocation(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    import_recordings(VideoSource(project / "films"), own, encode=True)
    assert all(video.startswith("videos/") for video in stored(own))
    with pytest.raises(UserError, match="refers to no file outside of its folder"):
        relocate(own, project / "films")
    moved = open_dataset(own.rename(tmp_path / "moved"))
    assert moved.frames(0, 0, 6).shape == (6, 32, 32, 3)
