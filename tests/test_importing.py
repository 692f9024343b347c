"""Importing recordings: exact content, reports of broken recordings, and resuming after a kill."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from embody.cli import main
from embody.data import Dataset, DatasetWriter, Episode, Video, open_dataset
from embody.data.sources.videos import VideoSource
from embody.data.video import draw_pointer
from embody.errors import UserError
from embody.games import source_of
from embody.games.minecraft import minerl
from embody.games.minecraft.actions import VPT
from embody.games.minecraft.minerl import read_trajectory
from embody.games.minecraft.pipeline import PipelineSource
from embody.games.minecraft.recordings import MinerlSource, VptSource
from embody.games.minecraft.tasks import TASKS
from embody.games.minecraft.vpt import read_segment
from embody.logger_manager import LoggerManager
from embody.recording.importing import REPORT, import_recordings, read_changes, read_report
from embody.run.inputs import import_source
from tests.recordings import (
    NAVIGATE,
    OBTAIN,
    TREECHOP,
    contractor_lines,
    minerl_arrays,
    real,
    vpt_line,
    write_lines,
    write_trajectory,
)

SRC = Path(__file__).parents[1] / "src"


def every_frame(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def write_video(path: Path, frames: int, seed: int = 0, fps: int = 20, size: int = 64) -> Path:
    """A small complete video file, which is not a recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height = stream.width = size
        for pixels in np.random.default_rng(seed).integers(0, 256, (frames, 8, 8, 3), np.uint8):
            large = pixels.repeat(size // 8, 0).repeat(size // 8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, "rgb24")))
        container.mux(stream.encode(None))
    return path


def write_navigate(root: Path, count: int) -> None:
    """Trajectories of 60 to 250 steps on real videos."""
    videos = real("minerl_navigate", "mp4")
    for i in range(count):
        steps = 60 + 190 * i // max(1, count - 1)
        arrays = minerl_arrays(NAVIGATE, steps, i)
        arrays["reward"][-1] = 100
        write_trajectory(root, NAVIGATE, f"player{i}-1_0-{steps}", arrays, videos[i % 4], success=True)


def run(*arguments: object) -> None:
    """Run the command line in the test's own folders."""
    main([str(argument) for argument in arguments])


def options(tmp_path: Path) -> tuple[object, ...]:
    folders = [option for name in ("data", "runs", "logs") for option in (f"--{name}-dir", tmp_path / name)]
    return (*folders, "--workers", 1)


# --- what was recorded ----------------------------------------------------------------------------------------------


def test_minerl(tmp_path: Path) -> None:
    write_navigate(tmp_path / "raw", 4)
    run("import", "minerl", tmp_path / "raw", *options(tmp_path), "--validation-share", 0.25)
    dataset = open_dataset(tmp_path / "data" / NAVIGATE)
    assert (dataset.meta.tasks, dataset.meta.height, dataset.meta.width, dataset.meta.fps) == ((NAVIGATE,), 64, 64, 20)
    assert set(dataset.splits) == {"train", "validation"} and len(dataset.episodes()) == 4
    for row in dataset.episodes():
        folder = tmp_path / "raw" / NAVIGATE / row.source
        trajectory = read_trajectory(folder, NAVIGATE)
        frames = every_frame(folder / "recording.mp4")
        np.testing.assert_array_equal(dataset.frames(row.id, 0, row.length), frames[-row.length :])  # the last as well
        episode, timesteps = dataset.episode(row.id), trajectory.timesteps()
        for name in ("actions", "rewards", "is_terminal", "camera", "is_null"):
            np.testing.assert_array_equal(getattr(episode, name), timesteps[name], name)
        assert (row.task, row.label, row.success, row.return_) == (NAVIGATE, "navigate", True, 100.0)
        assert episode.frames.path == folder / "recording.mp4" and row.length == len(trajectory.rewards) + 1


@pytest.mark.parametrize("missing, said", [(1, "1 timestep"), (5, "5 timesteps")])
def test_a_minerl_video_may_lack_its_last_frames(tmp_path: Path, missing: int, said: str) -> None:
    arrays = minerl_arrays(TREECHOP, 30)
    arrays["reward"][29] = 1  # on the last frame
    folder = write_trajectory(tmp_path, TREECHOP, "a", arrays, Path(__file__), frames=41, success=True)
    whole = read_trajectory(folder, TREECHOP).timesteps()
    write_video(folder / "recording.mp4", 41 - missing)
    episode = MinerlSource(tmp_path, TREECHOP).read("v3_a")
    assert isinstance(episode.frames, Video) and (episode.frames.start, episode.frames.length) == (10, 31 - missing)
    for name in ("actions", "rewards", "camera", "is_null"):
        np.testing.assert_array_equal(getattr(episode, name), whole[name][: 31 - missing], name)
    assert not episode.is_terminal.any() and not episode.success and whole["success"]
    assert episode.changes == (f"cut off at the end: {said} without a frame",)


@pytest.mark.parametrize("counted, frames, start, kept", [(41, 44, 10, 31), (28, 28, 0, 28), (28, 26, 0, 26)])
def test_minerls_frames_are_those_that_its_metadata_counts(
    tmp_path: Path, counted: int, frames: int, start: int, kept: int
) -> None:
    folder = write_trajectory(
        tmp_path, TREECHOP, "a", minerl_arrays(TREECHOP, 30), Path(__file__), frames=counted, success=True
    )
    write_video(folder / "recording.mp4", frames)
    episode = MinerlSource(tmp_path, TREECHOP).read("v3_a")
    assert isinstance(episode.frames, Video) and (episode.frames.start, episode.frames.length) == (start, kept)
    said = (
        f"cut off at the end: {31 - kept} timesteps without a frame"
        if kept < 31
        else "3 frames that its metadata does not count"
    )
    assert len(episode.changes) == 1 and said in episode.changes[0]


def test_obtain_is_of_every_task(tmp_path: Path) -> None:
    arrays = minerl_arrays(OBTAIN, 60)
    arrays["observation$inventory$log"][7:] = 1
    arrays["reward"][6] = 1
    folder = write_trajectory(tmp_path, OBTAIN, "a", arrays, Path(__file__), frames=61)
    write_video(folder / "recording.mp4", 61)
    dataset = import_recordings(MinerlSource(tmp_path, OBTAIN), tmp_path / "out")
    (row,) = dataset.episodes()
    events = dataset.events(0)
    assert row.task == "*" and dataset.meta.tasks == TASKS and dataset.meta.labels[0] == "mine log"
    assert events is not None and np.flatnonzero(events[:, 0]).tolist() == [7] and dataset.rewards[7] == 1


def write_segment(folder: Path, name: str, video: Path, lines: list[dict[str, Any]]) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(video, folder / f"{name}.mp4")
    write_lines(folder / f"{name}.jsonl", lines)


def test_vpt(tmp_path: Path) -> None:
    lines = contractor_lines(real("vpt_actions", "npz")[0])[:600]
    for line in lines[300:310]:
        line["isGuiOpen"] = True
        line["mouse"] |= {"x": 700.0, "y": 300.0}
    for line in lines[500:]:
        line["stats"] = {"minecraft.mine_block:minecraft.oak_log": 3}
    video = real("minestudio", "mp4")[0]
    write_segment(tmp_path / "raw", "7.0/somebody-f153ac423f61-20210806-224813", video, lines)
    index = tmp_path / "raw" / "index.json"
    index.write_text(
        json.dumps({"basedir": "https://x.org/", "relpaths": ["7.0/somebody-f153ac423f61-20210806-224813.mp4"]})
    )
    run("import", "vpt", index, *options(tmp_path), "--name", "contractors")
    dataset = open_dataset(tmp_path / "data" / "contractors")
    assert dataset.meta.actions == VPT.spec and (dataset.meta.height, dataset.meta.width) == (360, 640)
    (row,) = dataset.episodes()
    segment = read_segment(tmp_path / "raw" / f"{row.source}.jsonl", row.source)
    episode = dataset.episode(0)
    for name in ("actions", "camera", "is_null", "events"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(segment, name), name)
    assert row.length == 600 and row.success and not episode.is_terminal.any()
    assert np.argwhere(episode.events).tolist() == [[500, TASKS.index("mine_log")]]
    frames = every_frame(video)
    np.testing.assert_array_equal(dataset.frames(0, 297, 300), frames[297:300])
    shown = frames[300:303].copy()
    for frame in shown:
        draw_pointer(frame, 350, 150)
    np.testing.assert_array_equal(dataset.frames(0, 300, 303), shown)


def test_a_log_that_ends_a_little_early_or_late_is_cut_to_its_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "x.mp4", 30)
    for name, lines in (("whole", 30), ("short", 25), ("long", 35), ("too_short", 24), ("too_long", 36)):
        write_segment(tmp_path / "raw", name, video, [vpt_line(dx=i) for i in range(lines)])
    half = tmp_path / "raw" / "short.jsonl"
    half.write_bytes(half.read_bytes().rstrip() + b'\n{"mouse": {')
    run("import", "vpt", tmp_path / "raw", *options(tmp_path))
    said = capsys.readouterr().out
    dataset = open_dataset(tmp_path / "data" / "vpt")
    assert {row.source: row.length for row in dataset.episodes()} == {"whole": 30, "short": 25, "long": 30}
    shape = "64x64 pixels stretched to the shape of 640x360"  # said of every file
    changes = {one.file: tuple(said for said in one.changes if said != shape) for one in read_changes(dataset.root)}
    assert changes == {
        "whole": (),
        "short": (
            "line 26 of short.jsonl is incomplete and left out",
            "cut off at the end: 5 timesteps without an action",
        ),
        "long": ("cut off at the end: 5 timesteps without a frame",),
    }
    assert "changed long: cut off at the end: 5 timesteps without a frame" in said
    assert {one.file: one.what for one in read_report(dataset.root)} == {
        "too_short": "30 frames, but too_short.jsonl has 24 lines: they may differ by at most 5",
        "too_long": "30 frames, but too_long.jsonl has 36 lines: they may differ by at most 5",
    }
    for row in dataset.episodes():
        assert len(dataset.frames(row.id, 0, row.length)) == row.length


def test_reencoded_videos_are_the_datasets_own(tmp_path: Path) -> None:
    write_navigate(tmp_path / "raw", 2)
    run("import", "minerl", tmp_path / "raw", *options(tmp_path), "--reencode")
    root = tmp_path / "data" / NAVIGATE
    raw = {path.parent.name: every_frame(path) for path in (tmp_path / "raw").rglob("*.mp4")}
    shutil.rmtree(tmp_path / "raw")
    dataset = open_dataset(root)
    for row in dataset.episodes():
        video = dataset.episode(row.id).frames
        assert isinstance(video, Video) and video.path.is_relative_to(root) and video.start == 0
        assert psnr(dataset.frames(row.id, 0, row.length), raw[row.source][-row.length :]) > 30


def test_videos(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    for i, name in enumerate(("a.mp4", "b/a.mp4", "b/c.mkv")):
        write_video(folder / name, 10 + i, i)
    (folder / "notes.txt").write_text("no video")
    run("import", "videos", folder, *options(tmp_path), "--name", "mine")
    dataset = open_dataset(tmp_path / "data" / "mine")
    assert sorted((row.source, row.length) for row in dataset.episodes()) == [
        ("a.mp4", 10),
        ("b/a.mp4", 11),
        ("b/c.mkv", 12),
    ]
    assert not any(row.labelled for row in dataset.episodes()) and dataset.meta.fps == 20
    for row in dataset.episodes():
        np.testing.assert_array_equal(dataset.frames(row.id, 0, row.length), every_frame(folder / row.source))
    assert read_report(dataset.root) == []


def test_videos_of_different_rates_become_of_the_most_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    for name, fps in (("a.mp4", 30), ("b.mp4", 20), ("c.mp4", 20)):
        write_video(folder / name, 10, fps=fps)
    run("import", "videos", folder, *options(tmp_path), "--name", "mine")
    assert "changed a.mp4: 10 frames, 30.00 a second, became 7, 20 a second" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "data" / "mine")
    assert dataset.meta.fps == 20
    assert {row.source: row.length for row in dataset.episodes()} == {"a.mp4": 7, "b.mp4": 10, "c.mp4": 10}
    run("import", "videos", folder, *options(tmp_path), "--name", "fast", "--fps", 30, "--fit", "crop")
    meta = open_dataset(tmp_path / "data" / "fast").meta
    assert (meta.fps, meta.fit) == (30, "crop")
    with pytest.raises(SystemExit):
        run("import", "videos", folder, *options(tmp_path), "--name", "none", "--fps", 0)
    assert "--fps 0: must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("import", "videos", tmp_path / "logs", *options(tmp_path), "--name", "none")


class Changing(VideoSource):
    """Videos of which some are changed."""

    def read(self, name: str) -> Episode:
        changes = ("cut at the end", "turned") if name == "b.mp4" else ()
        return dataclasses.replace(super().read(name), changes=changes)


def test_what_an_import_changes_is_said_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embody.data.sources.videos.VideoSource", Changing)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "raw" / name, 10)
    for _ in range(2):  # also where there is nothing left to do
        run("import", "videos", tmp_path / "raw", *options(tmp_path))
        assert "changed b.mp4: cut at the end; turned" in capsys.readouterr().out
    root = tmp_path / "data" / "videos"
    assert [(one.file, one.changes) for one in read_changes(root)] == [("b.mp4", ("cut at the end", "turned"))]
    assert read_report(root) == []


# --- what is broken -------------------------------------------------------------------------------------------------


def break_minerl(folder: Path, case: str) -> None:
    arrays = dict(np.load(folder / "rendered.npz"))
    match case:
        case "truncated":
            whole = (folder / "recording.mp4").read_bytes()
            (folder / "recording.mp4").write_bytes(whole[: len(whole) // 2])
        case "shorter video":
            write_video(folder / "recording.mp4", 64)
        case "no frame":
            (folder / "recording.mp4").write_bytes(b"")
        case "no video":
            (folder / "recording.mp4").unlink()
        case "lacks a key":
            del arrays["action$jump"]
        case "unknown key":
            arrays["action$fly"] = arrays["action$jump"]
        case "nan":
            arrays["action$camera"][3] = np.nan
        case "wrong shape":
            arrays["reward"] = arrays["reward"][:, None]
        case "bad json":
            (folder / "metadata.json").write_text("{")
    if case in ("lacks a key", "unknown key", "nan", "wrong shape"):
        np.savez_compressed(folder / "rendered.npz", **arrays)


MINERL_CASES = {
    "truncated": ("recording.mp4", "truncated|cannot be read"),
    "shorter video": ("recording.mp4", "64 frames, its metadata says 70: they may differ by at most 5"),
    "no frame": ("recording.mp4", "cannot be read"),
    "no video": ("recording.mp4", "is missing"),
    "lacks a key": ("rendered.npz", r"action\$jump is missing"),
    "unknown key": ("rendered.npz", r"unknown key action\$fly"),
    "nan": ("rendered.npz", r"action\$camera is not finite at step 3"),
    "wrong shape": ("rendered.npz", r"reward has shape \[30, 1\]"),
    "bad json": ("metadata.json", "cannot be read"),
}


def break_vpt(folder: Path, case: str) -> None:
    lines, video = folder / "b.jsonl", folder / "b.mp4"
    match case:
        case "truncated":
            video.write_bytes(video.read_bytes()[:-400])
        case "no frame":
            video.write_bytes(b"")
        case "fewer lines":
            lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-6]))
        case "bad json":
            lines.write_text(lines.read_text().replace('"isGuiOpen"', "isGuiOpen", 1))
        case "unknown key":
            lines.write_text(lines.read_text().replace('"keys": []', '"keys": ["w"]', 1))
        case "nan":
            lines.write_text(lines.read_text().replace('"dx": 0.0', '"dx": NaN', 1))
        case "no lines":
            lines.unlink()
        case "leaves":
            index = {"basedir": "", "relpaths": ["a", "b", "../../etc/b"]}
            (folder / "index.json").write_text(json.dumps(index))
        case "link":
            (folder / "link").symlink_to(folder.parent)
            (folder / "index.json").write_text(json.dumps({"basedir": "", "relpaths": ["a", "b", "link/c"]}))


VPT_CASES = {
    "truncated": ("b.mp4", "truncated|cannot be read"),
    "no frame": ("b.mp4", "cannot be read"),
    "fewer lines": ("b.mp4", "30 frames, but b.jsonl has 24 lines: they may differ by at most 5"),
    "bad json": ("b.jsonl, line 1", "bad JSON"),
    "unknown key": ("b.jsonl, line 1", "unknown key 'w'"),
    "nan": ("b.jsonl, line 1", "NaN is not a number"),
    "no lines": ("b.jsonl", "the file is missing"),
    "leaves": ("index.json", r"the path \.\./\.\./etc/b is outside the folder"),
    "link": ("index.json", r"the path link/c is outside the folder"),
}


def check_report(root: Path, where: str, what: str) -> None:
    (broken,) = read_report(root)
    assert broken.where.endswith(where), broken
    assert re.search(what, broken.what), broken
    lines = (root / REPORT).read_text().splitlines()
    assert sum("what" in line for line in lines) == 1 and str(root.parent) not in lines[1]


@pytest.mark.parametrize("case", MINERL_CASES)
def test_broken_minerl_recordings_are_left_out(tmp_path: Path, case: str) -> None:
    raw = tmp_path / "raw"
    for i, name in enumerate(("a", "b", "c")):
        folder = write_trajectory(raw, TREECHOP, name, minerl_arrays(TREECHOP, 30, i), Path(__file__), frames=70)
        write_video(folder / "recording.mp4", 70, i)
    break_minerl(raw / TREECHOP / "v3_b", case)
    dataset = import_recordings(MinerlSource(raw, TREECHOP), tmp_path / "out")
    assert sorted(row.source for row in dataset.episodes()) == ["v3_a", "v3_c"]
    where, what = MINERL_CASES[case]
    check_report(tmp_path / "out", f"v3_b/{where}", what)
    assert read_report(tmp_path / "out")[0].file == "v3_b"


@pytest.mark.parametrize("case", VPT_CASES)
def test_broken_vpt_recordings_are_left_out(tmp_path: Path, case: str) -> None:
    raw = tmp_path / "raw"
    for i, name in enumerate(("a", "b")):
        write_segment(raw, name, write_video(tmp_path / "x.mp4", 30, i), [vpt_line() for _ in range(30)])
    break_vpt(raw, case)
    source = VptSource(raw / "index.json" if case in ("leaves", "link") else raw)
    dataset = import_recordings(source, tmp_path / "out", validation_share=0)
    assert [row.source for row in dataset.episodes()] == (["a", "b"] if case in ("leaves", "link") else ["a"])
    check_report(tmp_path / "out", *VPT_CASES[case])


def test_strict_ends_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "raw" / name, 10)
    (tmp_path / "raw" / "c.mp4").write_bytes(b"nothing")
    for _ in range(2):  # also where there is nothing left to do
        with pytest.raises(SystemExit) as stop:
            run("import", "videos", tmp_path / "raw", *options(tmp_path), "--strict")
        assert stop.value.code == 2
        assert f"1 recordings are broken: see {tmp_path / 'data' / 'videos' / REPORT}" in capsys.readouterr().err
    assert len(open_dataset(tmp_path / "data" / "videos").episodes()) == 2
    run("import", "videos", tmp_path / "raw", *options(tmp_path))
    assert "videos is finished: 2 episodes, 1 broken recordings left out" in capsys.readouterr().out


def test_a_finished_import_says_how_to_take_in_what_was_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "raw" / "a.mp4", 10)
    write_video(tmp_path / "raw" / "b.mp4", 10)
    for number in range(11):
        (tmp_path / "raw" / f"c{number:02d}.mp4").write_bytes(b"nothing")
    command = ("import", "videos", tmp_path / "raw", *options(tmp_path))
    run(*command)
    write_video(tmp_path / "raw" / "c00.mp4", 10)
    capsys.readouterr()
    run(*command)
    said = " ".join(capsys.readouterr().out.split())
    root = tmp_path / "data" / "videos"
    assert said.count("skipped c") == 10  # of 11
    assert f"skipped 1 more: see {root / REPORT}" in said
    assert f"once repaired, they are imported by another --name, or after deleting {root}" in said
    shutil.rmtree(root)
    run(*command)
    assert "videos is finished: 3 episodes, 10 broken" in " ".join(capsys.readouterr().out.split())


def test_nothing_whole_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match="no video in"):
        import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "out")
    write_segment(tmp_path / "raw", "a", write_video(tmp_path / "x.mp4", 7), [vpt_line()])
    with pytest.raises(ValueError, match="none of 1 recordings can be read: a, a.mp4: 7 frames"):
        import_recordings(VptSource(tmp_path / "raw"), tmp_path / "out")
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="validation share"):
            import_recordings(VptSource(tmp_path / "raw"), tmp_path / "other", validation_share=share)


def test_whatever_breaks_a_recording_costs_that_one_alone(tmp_path: Path) -> None:
    video = write_video(tmp_path / "x.mp4", 4)
    for name, dx in (("bad", 10**400), ("good", 1)):
        write_segment(tmp_path / "raw", name, video, [vpt_line(dx=dx) for _ in range(4)])
    dataset = import_recordings(VptSource(tmp_path / "raw"), tmp_path / "out")
    assert [row.source for row in dataset.episodes()] == ["good"]
    (broken,) = read_report(tmp_path / "out")
    assert (broken.file, broken.where) == ("bad", "bad.jsonl, line 1") and "more than 64 bits" in broken.what


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


ODD_FILES = {
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": make_socket,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("name", ["odd.mp4", "odd.jsonl"])
def test_a_file_that_may_never_end_is_passed_over(tmp_path: Path, kind: str, name: str) -> None:
    video = write_video(tmp_path / "x.mp4", 4)
    for stem in ("good", "odd"):
        write_segment(tmp_path / "raw", stem, video, [vpt_line() for _ in range(4)])
    (tmp_path / "raw" / name).unlink()
    ODD_FILES[kind](tmp_path / "raw" / name)
    sources: list[Any] = [VptSource(tmp_path / "raw")]
    sources += [VideoSource(tmp_path / "raw")] if name == "odd.mp4" and kind != "a folder" else []
    for source in sources:
        root = tmp_path / type(source).__name__
        dataset = import_recordings(source, root, validation_share=0)
        assert len(dataset.episodes()) == 1
        (broken,) = read_report(root)
        assert broken.where == name and re.match(
            f"it is {kind}, not a|is not a file|cannot be read .No such device", broken.what
        ), broken


def test_an_index_that_never_ends_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.json")
    with pytest.raises(UserError, match="index.json is damaged .it is a FIFO, not a regular file"):
        import_recordings(VptSource(tmp_path / "index.json"), tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"relpaths": "ab"}',
        '{"relpaths": [3]}',
        '{"basedir": [], "relpaths": ["a"]}',
        '{"relpaths":' + "[" * 10**5,
    ],
    ids=lambda text: text[:20],
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match="index.json(: not an index of recordings| is damaged)"):
        import_recordings(VptSource(tmp_path / "index.json"), tmp_path / "out")


def test_odd_paths_of_an_index_hurt_themselves_alone(tmp_path: Path) -> None:
    write_segment(tmp_path, "good", write_video(tmp_path / "x.mp4", 4), [vpt_line() for _ in range(4)])
    odd = ["", ".", "..", "/", "a\0b.mp4", "a" * 10**5]
    (tmp_path / "index.json").write_text(json.dumps({"basedir": "a\0b", "relpaths": [*odd, "good.mp4"]}))
    dataset = import_recordings(VptSource(tmp_path / "index.json"), tmp_path / "out", validation_share=0)
    assert [row.source for row in dataset.episodes()] == ["good"]
    assert len(read_report(tmp_path / "out")) == len(odd)


@pytest.mark.parametrize("line", ["[]," * 10_000 + "[]", '"' + "y" * 2**20 + '"'])
def test_a_line_is_bounded_before_it_is_parsed(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(vpt_line()) + f'\n{{"x": [{line}]}}\n')
    with pytest.raises(UserError, match=r"a.jsonl, line 2: bad JSON \(more than \d+ bytes or \d+ lists and objects\)"):
        read_segment(tmp_path / "a.jsonl", "a")


def test_odd_names_hurt_themselves_alone_and_are_printed_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_video(tmp_path / "x.mp4", 4)
    for name in (b"good.mp4", b"\xff\xfe.mp4", b"a\nb.mp4", b"\x1b[31m[/red].mp4"):
        path = tmp_path / "raw" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(good, path)
        path.with_name(f"bad {path.name}").write_bytes(b"broken")
    run("import", "videos", tmp_path / "raw", *options(tmp_path), "--validation-share", 0)
    root = tmp_path / "data" / "videos"
    assert sorted(row.source for row in open_dataset(root).episodes()) == ["\x1b[31m[/red].mp4", "a\nb.mp4", "good.mp4"]
    assert len(read_report(root)) == 3
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.log"))
    for text in (capsys.readouterr().out, logs):
        assert "\x1b" not in text and r"skipped bad a\nb.mp4: bad a\nb.mp4: cannot be read" in text
        assert "left alone ??.mp4: its name is not UTF-8" in text
    write_segment(tmp_path / "vpt", "good", good, [vpt_line() for _ in range(4)])
    write_segment(tmp_path / "vpt", os.fsdecode(b"\xff"), good, [vpt_line() for _ in range(4)])
    source = small(VptSource(tmp_path / "vpt"), 1)
    for _ in range(2):
        assert len(import_recordings(source, tmp_path / "out", validation_share=0).episodes()) == 1
        (broken,) = read_report(tmp_path / "out")
        assert (broken.file, broken.what) == (r"\udcff", "its name is not UTF-8: rename it")


@pytest.mark.parametrize("text", ["{", "[]", '{"skipped": [3]}', '{"skipped": [], "changed": {"a": 1}}'])
def test_a_damaged_report_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / REPORT).write_text(text)
    with pytest.raises(
        UserError, match=f"{REPORT}( is damaged|: (skipped|changed) is not what| was written by another version)"
    ):
        read_report(tmp_path)
        read_changes(tmp_path)


def test_an_import_of_nothing_goes_on_when_the_files_are_repaired(tmp_path: Path) -> None:
    write_segment(tmp_path / "raw", "a", write_video(tmp_path / "x.mp4", 5), [vpt_line() for _ in range(5)])
    (tmp_path / "raw" / "a.mp4").rename(tmp_path / "kept.mp4")
    with pytest.raises(ValueError, match="none of 1 recordings"):
        import_recordings(VptSource(tmp_path / "raw"), tmp_path / "out")
    (tmp_path / "kept.mp4").rename(tmp_path / "raw" / "a.mp4")
    assert len(import_recordings(VptSource(tmp_path / "raw"), tmp_path / "out").episodes()) == 1
    assert not read_report(tmp_path / "out")


# --- interruptions --------------------------------------------------------------------------------------------------


def small(source: Any, shard: int) -> Any:  # noqa: ANN401
    return dataclasses.replace(source, shard_size=shard)


def write_many(raw: Path, count: int) -> None:
    for i in range(count):
        write_segment(raw, f"{i:03d}", write_video(raw.parent / "x.mp4", 8, i), [vpt_line(dx=i) for _ in range(8)])
    for i in {1, 4, 5, 10} & set(range(count)):  # 4 and 5 are a whole shard
        (raw / f"{i:03d}.jsonl").write_text("{")


def test_workers_change_nothing_and_leave_nothing(tmp_path: Path) -> None:
    write_many(tmp_path / "raw", 12)
    source = small(VptSource(tmp_path / "raw"), 2)
    seen: list[tuple[int, int, int]] = []
    one = import_recordings(source, tmp_path / "one", progress=lambda *state: seen.append(state))
    assert seen[0] == (0, 12, 0) and seen[-1] == (12, 12, 4)
    two = import_recordings(source, tmp_path / "two", workers=2)
    assert one.fingerprint == two.fingerprint and read_report(one.root) == read_report(two.root)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("stop_at", range(1, 13, 2))
def test_an_interrupted_import_goes_on(tmp_path: Path, stop_at: int) -> None:
    write_many(tmp_path / "raw", 12)
    source = small(VptSource(tmp_path / "raw"), 2)
    whole = import_recordings(source, tmp_path / "whole", validation_share=0)

    def stop(done: int, total: int, skipped: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recordings(source, tmp_path / "cut", progress=stop, validation_share=0)
    with pytest.raises(ValueError, match="incomplete"):
        open_dataset(tmp_path / "cut")
    seen: list[int] = []
    cut = import_recordings(source, tmp_path / "cut", progress=lambda done, *_: seen.append(done), validation_share=0)
    assert seen[0] >= (stop_at - 1) // 2 * 2 - 2 and seen[-1] == 12
    assert cut.fingerprint == whole.fingerprint and set(read_report(cut.root)) == set(read_report(whole.root))


def test_what_was_repaired_after_a_kill_is_no_longer_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_many(tmp_path / "raw", 4)
    source = VptSource(tmp_path / "raw")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DatasetWriter, "write_shard", die)
        import_recordings(source, tmp_path / "out", validation_share=0)
    assert [broken.file for broken in read_report(tmp_path / "out")] == ["001"]
    shutil.copyfile(tmp_path / "raw" / "002.jsonl", tmp_path / "raw" / "001.jsonl")
    dataset = import_recordings(source, tmp_path / "out", validation_share=0)
    assert len(dataset.episodes()) == 4 and read_report(dataset.root) == []


KILLED = """
import dataclasses, os, sys
from pathlib import Path
from embody.recording.importing import import_recordings
from embody.games.minecraft.recordings import VptSource

def progress(done, total, skipped):
    print(done, flush=True)

if __name__ == "__main__":
    source = dataclasses.replace(VptSource(Path(sys.argv[1])), shard_size=2)
    import_recordings(source, Path(sys.argv[2]), workers=2, encode=True, progress=progress)
"""


def test_a_killed_import_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    write_many(tmp_path / "raw", 30)
    (tmp_path / "program.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "raw"), str(tmp_path / "cut")]
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 8:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 20
    while _members(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _members(child.pid)
    source = small(VptSource(tmp_path / "raw"), 2)
    seen: list[int] = []
    cut = import_recordings(source, tmp_path / "cut", encode=True, progress=lambda done, *_: seen.append(done))
    assert 4 <= seen[0] < 30
    whole = import_recordings(source, tmp_path / "whole", encode=True)
    assert cut.fingerprint == whole.fingerprint
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def _members(session: int) -> list[int]:
    """The running processes of a session."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(status.parent.name))
    return members


def test_other_recordings_need_another_name(tmp_path: Path) -> None:
    write_many(tmp_path / "raw", 3)
    source = VptSource(tmp_path / "raw")
    import_recordings(source, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match="imported with reencode False, now it would be True"):
        import_recordings(source, tmp_path / "out", encode=True)
    write_segment(tmp_path / "raw", "more", write_video(tmp_path / "x.mp4", 8), [vpt_line()])
    with pytest.raises(ValueError, match="imported with recordings 3, now it would be 4"):
        import_recordings(VptSource(tmp_path / "raw"), tmp_path / "out")
    with pytest.raises(ValueError, match="holds files but no dataset"):
        import_recordings(source, tmp_path / "raw")
    assert files(tmp_path / "out") == before


def test_sessions_are_not_parted_by_the_split(tmp_path: Path) -> None:
    for session in ("ada-02e496ce4abb", "bob-f153ac423f61", "eve-74ae6c2eae2e", "joe-aaaaaaaaaaaa"):
        for clock in ("120000", "120500", "121000"):
            name = f"6.9/{session}-20220421-{clock}"
            write_segment(tmp_path / "raw", name, write_video(tmp_path / "x.mp4", 4), [vpt_line()] * 4)
    source = VptSource(tmp_path / "raw")
    dataset = import_recordings(source, tmp_path / "out", validation_share=0.2)
    splits: dict[str, set[str]] = {}
    for row in dataset.episodes():
        splits.setdefault(source.group(row.source), set()).add(row.split)
    assert len(splits) == 4 and all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "validation"}


def test_one_recording_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw" / "recording-16.mp4", 5)  # whose hash would have it in validation
    assert import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "out").splits == ("train",)
    write_video(tmp_path / "raw" / "recording-17.mp4", 5)  # and this one's too
    assert import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "two").splits == ("train", "validation")


# --- the package's pipeline -----------------------------------------------------------------------------------------


class PackagePipeline:
    """An object with the signatures of MineRL's package, which returns what its own reader would."""

    def __init__(self, environment: str, episodes: dict[str, dict[str, NDArray]]) -> None:
        self.environment, self.data_dir, self.episodes = environment, "/nowhere", episodes

    def get_trajectory_names(self) -> list[str]:
        return list(np.random.default_rng().permutation(list(self.episodes)))  # it shuffles them

    def load_data(
        self,
        stream_name: str,
        skip_interval: int = 0,
        include_metadata: bool = False,
        include_monitor_data: bool = False,
    ) -> Iterator[list[Any]]:
        arrays = self.episodes[stream_name]
        steps = len(arrays["reward"])

        def obs(t: int) -> OrderedDict[str, Any]:
            count = arrays["log"][t]
            hand = OrderedDict(damage=0, maxDamage=0, type="none")
            names = ("coal", "cobblestone", "crafting_table", "furnace", "iron_ingot", "iron_ore", "iron_pickaxe")
            others = {name: 0 for name in (*names, "planks", "stick", "stone_pickaxe", "wooden_pickaxe")}
            return OrderedDict(
                equipped_items=OrderedDict(mainhand=hand),
                inventory=OrderedDict(sorted({**others, "log": count}.items())),
                pov=arrays["pov"][t],
            )

        for t in range(steps):
            action = OrderedDict((key, arrays[key][t]) for key in ("attack", "camera", "craft", "place"))
            action |= {"nearbySmelt": "none"}
            item = [obs(t), action, arrays["reward"][t], obs(t + 1), t == steps - 1]
            yield item + [{"success": False, "stream_name": stream_name}] if include_metadata else item


def of_package(seed: int) -> dict[str, NDArray]:
    random = np.random.default_rng(seed)
    steps = 6 + seed
    return {
        "pov": random.integers(0, 256, (steps + 1, 64, 64, 3), np.uint8),
        "log": np.array([0, 0, 1, *[1] * (steps - 2)]),
        "reward": np.array([0, 1, *[0] * (steps - 2)], np.float32),
        "attack": random.integers(0, 2, steps),
        "camera": random.normal(0, 3, (steps, 2)).astype(np.float32),
        "craft": np.array(["none", "planks", *["none"] * (steps - 2)]),
        "place": np.array(["none"] * steps),
    }


@pytest.fixture
def package() -> PackagePipeline:
    return PackagePipeline(OBTAIN, {f"v3_player-{seed}": of_package(seed) for seed in range(3)})


def test_the_packages_pipeline_becomes_a_dataset(
    package: PackagePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert source_of(package, (64, 32)) == PipelineSource(package, 64, 32)
    with pytest.raises(UserError, match="data is a function, which no game can read: give one or more datasets"):
        source_of(open_dataset, (64, 64))
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "x")
    dataset = import_source(PipelineSource(package, 64, 64), tmp_path / "out", logger)
    for row in dataset.episodes():
        arrays, episode = package.episodes[row.source], dataset.episode(row.id)
        np.testing.assert_array_equal(episode.frames, arrays["pov"])
        np.testing.assert_array_equal(episode.actions[1:, 0], arrays["attack"])
        np.testing.assert_allclose(episode.camera[1:], arrays["camera"])
        assert episode.rewards.tolist() == [0, *arrays["reward"]]
        assert np.argwhere(episode.events).tolist() == [[2, TASKS.index("mine_log")]]
    again = import_source(PipelineSource(package, 64, 64), tmp_path / "out", logger)  # in another order
    assert again.fingerprint == dataset.fingerprint and "3/3" in capsys.readouterr().out
    small = import_source(PipelineSource(package, 32, 32), tmp_path / "small", logger)
    name = small.episodes()[0].source
    means = package.episodes[name]["pov"].reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small.frames(0, 0, len(means)), means, atol=1.01)  # rounded twice
    logger.close()


def test_pieces_of_a_stream_are_not_parted_by_the_split(tmp_path: Path) -> None:
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "x")
    pieces = {f"v3_player-{n}_{at}-{at + 6}": of_package(0) for n in range(30) for at in (0, 6, 12)}
    dataset = import_source(PipelineSource(PackagePipeline(OBTAIN, pieces), 64, 64), tmp_path / "out", logger)
    streams = {split: {row.source.rsplit("_", 1)[0] for row in dataset.episodes(split)} for split in dataset.splits}
    assert streams["train"] and streams["validation"] and not streams["train"] & streams["validation"]
    assert len(dataset.episodes("validation")) == 3 * len(streams["validation"])
    logger.close()


def test_our_own_pipeline_as_well(tmp_path: Path) -> None:
    write_navigate(tmp_path / "raw", 2)
    data = minerl.data.make(NAVIGATE, data_dir=tmp_path / "raw", num_workers=1)
    logger = LoggerManager(tmp_path / "run", tmp_path / "logs", "x")
    dataset: Dataset = import_source(PipelineSource(data, 64, 64), tmp_path / "out", logger)
    referenced = import_recordings(MinerlSource(tmp_path / "raw", NAVIGATE), tmp_path / "other")
    by_name = {row.source: row for row in referenced.episodes()}
    for row in dataset.episodes():
        own, other = dataset.episode(row.id), referenced.episode(by_name[row.source].id)
        for field in ("actions", "rewards", "is_terminal", "camera", "is_null", "success"):
            np.testing.assert_array_equal(getattr(own, field), getattr(other, field), field)
        frames = referenced.frames(by_name[row.source].id, 0, row.length)
        np.testing.assert_array_equal(own.frames[:-1], frames[:-1])
        np.testing.assert_array_equal(own.frames[-1], frames[-2])  # the package's habit
    logger.close()
