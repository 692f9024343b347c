"""Videos as people have them: turned, mirrored, with covers, of other shapes and rates, in folders with other files."""

import io
import os
import shutil
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from embody.config import Fit
from embody.data import Dataset, Episode, Video, index_video, open_dataset, reencode
from embody.data.container import frame_times, identity
from embody.data.rates import at_rate, frames_at_rate
from embody.data.sources.videos import VideoSource
from embody.data.video import OpenVideos
from embody.errors import UserError
from embody.games import open_recordings, preset
from embody.games.minecraft.recordings import VptSource
from embody.recording.importing import import_recordings, read_changes, read_other_files, read_report
from embody.run.inputs import inputs
from tests.recordings import vpt_line, write_lines

QUARTERS = np.zeros((48, 80, 3), np.uint8)  # top: red, green; bottom: blue, white
QUARTERS[:24, :40], QUARTERS[:24, 40:], QUARTERS[24:, :40], QUARTERS[24:] = (220, 20, 20), (20, 220, 20), 0, 230
QUARTERS[24:, :40] = (20, 20, 220)
UNIT = 65536  # 1 in a display matrix
CLOCK = Fraction(1, 90_000)  # seconds


def film(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    fps: int = 20,
    seconds: Sequence[float] | None = None,
    matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | int = 1,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    form: str | None = None,
) -> Path:
    """A video of `pictures`, each shown at its time in `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.sample_aspect_ratio = pixel_aspect
        if seconds is not None:
            stream.codec_context.time_base = CLOCK
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)
            if seconds is not None:
                frame.pts, frame.time_base = round(seconds[number] / CLOCK), CLOCK
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grays(count: int, size: tuple[int, int] = (48, 64)) -> list[NDArray[np.uint8]]:
    """Pictures whose brightness is 4 times their number."""
    return [np.full((*size, 3), 4 * number, np.uint8) for number in range(count)]


def shown(dataset: Dataset, source: str) -> list[int]:
    """The numbers of the frames of `grays` in an episode, one by one and all together."""
    (row,) = (row for row in dataset.episodes() if row.source == source)
    together = dataset.frames(row.id, 0, row.length)
    alone = [dataset.frames(row.id, t, t + 1)[0] for t in reversed(range(row.length))][::-1]
    np.testing.assert_array_equal(together, alone)
    return np.round(together.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


def read(path: Path, size: tuple[int, int], fit: Fit = "letterbox", **video: object) -> NDArray[np.uint8]:
    first = Video(path, 0, 1, **video)  # type: ignore[arg-type]
    return OpenVideos().read(first, index_video(path), identity(path), *size, fit)[0]


def near(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether pictures are equal but for the codec and their edges."""
    return a.shape == b.shape and float(np.abs(a.astype(int) - b).mean()) < 12


# --- as players show them -------------------------------------------------------------------------------------------

TURNED = {  # matrix a, b, c, d; and what is shown
    "as stored": ((1, 0, 0, 1), lambda picture: picture),
    "a quarter to the left": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "a half": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "a quarter to the right": ((0, 1, -1, 0), lambda picture: np.rot90(picture, 3)),
    "left and right": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "top and bottom": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "rows and columns": ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    "both": ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
    "nothing readable": ((0, 0, 0, 0), lambda picture: picture),
}


@pytest.mark.parametrize("case", TURNED)
def test_the_display_matrix_is_applied(tmp_path: Path, case: str) -> None:
    (a, b, c, d), turn = TURNED[case]
    matrix = (a * UNIT, b * UNIT, 0, c * UNIT, d * UNIT, 0, 0, 0, 2**30)
    film(tmp_path / "raw" / "a.mp4", [QUARTERS] * 10, matrix=matrix)
    dataset = import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "out")
    upright = turn(QUARTERS)
    assert (dataset.meta.height, dataset.meta.width) == upright.shape[:2]
    for start in (7, 0):
        assert near(dataset.frames(0, start, start + 1)[0], upright)
    again = import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "again", encode=True)
    assert near(again.frames(0, 3, 4)[0], upright)


def test_the_pointer_is_drawn_on_the_turned_picture(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [QUARTERS] * 3, matrix=(0, -UNIT, 0, UNIT, 0, 0, 0, 0, 2**30))
    pointer = np.array([[10, 60]], np.int16)
    with_it, without = read(tmp_path / "a.mp4", (80, 48), cursor=pointer), read(tmp_path / "a.mp4", (80, 48))
    rows, columns = np.nonzero((with_it != without).any(axis=2))
    assert (rows.min(), columns.min()) == (60, 10)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """A circle of a DVD is a circle, upright and turned."""
    rows, columns = np.mgrid[:96, :96]
    circle = np.where((rows - 48) ** 2 + (2 * (columns - 48)) ** 2 < 40**2, 255, 0).astype(np.uint8)  # in wide pixels
    for name, matrix in (("a.mp4", None), ("b.mp4", (0, UNIT, 0, -UNIT, 0, 0, 0, 0, 2**30))):
        film(tmp_path / name / name, [np.stack([circle] * 3, axis=2)] * 10, pixel_aspect=2, matrix=matrix)
        for encode in (False, True):
            dataset = import_recordings(VideoSource(tmp_path / name), tmp_path / f"{name}{encode}", encode=encode)
            wanted = (96, 192) if matrix is None else (192, 96)
            assert (dataset.meta.height, dataset.meta.width) == wanted
            for size in (wanted, (64, 64)):
                bright = open_dataset(dataset.root, size).frames(0, 2, 3)[0].mean(axis=2) > 127
                assert abs(bright.any(axis=0).sum() / bright.any(axis=1).sum() - 1) < 0.1


def with_cover(path: Path) -> None:
    """Put a picture into the metadata of an MP4, which FFmpeg then lists as its first video stream."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32), (0, 200, 0)).save(jpeg, "JPEG")
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg.getvalue()))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    extra = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", cover)))
    data = path.read_bytes()
    start = data.index(b"moov") - 4  # at the end of the file, so that no offset into it moves
    header = start + 8 + int.from_bytes(data[start + 8 : start + 12])
    path.write_bytes(data[:start] + box(b"moov", data[start + 8 : header] + extra + data[header:]))


def test_a_cover_is_not_the_video(tmp_path: Path) -> None:
    with_cover(film(tmp_path / "raw" / "a.mp4", grays(30)))
    with av.open(str(tmp_path / "raw" / "a.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
    for encode in (False, True):
        dataset = import_recordings(VideoSource(tmp_path / "raw"), tmp_path / f"out{encode}", encode=encode)
        assert shown(dataset, "a.mp4") == list(range(30)) and (dataset.meta.height, dataset.meta.width) == (48, 64)


# --- other shapes ---------------------------------------------------------------------------------------------------


def square_in(height: int, width: int) -> NDArray[np.uint8]:
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[height // 2 - 40 : height // 2 + 40, width // 2 - 40 : width // 2 + 40] = 250
    return picture


def test_fit(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "a.mp4", [square_in(90, 160)] * 5)
    film(tmp_path / "raw" / "b.mp4", [square_in(160, 90)] * 5)
    film(tmp_path / "raw" / "c.mp4", [square_in(180, 320)] * 5)  # of the first one's shape
    prints = set()
    for fit, done in (("letterbox", "letterboxed"), ("crop", "cropped"), ("stretch", "stretched")):
        import_recordings(open_recordings("videos", tmp_path / "raw", fit=fit), tmp_path / fit)
        dataset = open_dataset(tmp_path / fit, (64, 64))
        assert dataset.meta.fit == fit
        assert [(one.file, one.changes) for one in read_changes(dataset.root)] == [
            ("b.mp4", (f"90x160 pixels {done} to the shape of 160x90",))
        ]
        prints.add(dataset.fingerprint)
        wide, tall = (
            dataset.frames(row.id, 1, 2)[0].mean(axis=2) for name in "ab" for row in dataset.episodes()
            if row.source == f"{name}.mp4"
        )  # fmt: skip
        sides = [(int((one > 150).any(axis=1).sum()), int((one > 150).any(axis=0).sum())) for one in (wide, tall)]
        black = [int((one < 20).all(axis=1).sum()) for one in (wide, wide.T, tall, tall.T)]
        if fit == "letterbox":
            assert sides == [(32, 32), (32, 32)] and black == [28, 0, 0, 28]
        elif fit == "crop":
            assert np.allclose(sides, 57, atol=1) and not any(black)
        else:
            assert np.allclose(sides, [(57, 32), (32, 57)], atol=1) and not any(black)
    assert len(prints) == 3  # latents of one fit are not taken for those of another
    with pytest.raises(UserError, match="imported with fit letterbox, now it would be crop"):
        import_recordings(VideoSource(tmp_path / "raw", fit="crop"), tmp_path / "letterbox")


def test_a_letterbox_of_less_than_a_pixel_is_none(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [square_in(216, 384)] * 3)
    np.testing.assert_array_equal(read(tmp_path / "a.mp4", (36, 64)), read(tmp_path / "a.mp4", (36, 64), "stretch"))


def test_settings_that_a_kind_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fps 10: minerl recordings have no such setting"):
        open_recordings("minerl", tmp_path, "MineRLTreechop-v0", fps=10)
    assert open_recordings("vpt", tmp_path, fit="crop", fps=10) == VptSource(tmp_path, fit="crop", fps=10)


# --- rates ----------------------------------------------------------------------------------------------------------


def test_timesteps_show_the_frame_of_their_time() -> None:
    def steady(frames: int, rate: float) -> NDArray[np.float64]:
        return np.arange(frames + 1) / rate

    assert frames_at_rate(steady(6, 20), 20).tolist() == [0, 1, 2, 3, 4, 5]
    assert frames_at_rate(steady(4, 10), 20).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert frames_at_rate(steady(8, 40), 20).tolist() == [0, 2, 4, 6]
    noise = np.round(steady(300, 60), 3)  # as Matroska stores times
    assert frames_at_rate(noise, 30).tolist() == list(range(0, 300, 2))
    assert np.diff(frames_at_rate(noise, 24)).tolist() == [2, 3] * 59 + [2]
    assert np.diff(frames_at_rate(steady(300, 30), 20)).tolist() == [1, 2] * 99 + [1]
    for rate in (30_000 / 1001, 30, 30.01):  # nearly the same: no frame is left out or repeated
        assert frames_at_rate(steady(3000, rate), 30).tolist() == list(range(3000))
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, 301) * (np.arange(301) % 300 > 0)
    assert frames_at_rate((np.arange(301) + jitter) / 30, 30).tolist() == list(range(300))
    # A phone's variable rate: the frame that is shown is never more than half a timestep early or a frame late.
    times = np.append(0, np.cumsum(np.random.default_rng(1).uniform(0.01, 0.1, 500)))
    numbers = frames_at_rate(times, 24)
    now = np.arange(len(numbers)) / 24
    assert len(numbers) == round(times[-1] * 24)
    assert (times[numbers] <= now + 0.5 / 24).all() and (times[numbers + 1] > now).all()
    # A still in a slide show is shown until the next one.
    assert frames_at_rate(np.array([0, 0.1, 3.1, 3.2]), 10).tolist() == [0] + [1] * 30 + [2]


def test_a_folder_of_several_rates(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("a.mp4", "b.mkv"):
        film(raw / name, grays(40), fps=30)
    film(raw / "ntsc.mp4", grays(40), seconds=[number * 1001 / 30_000 for number in range(40)])
    film(raw / "double.mp4", grays(40), fps=60)
    film(raw / "half.mp4", grays(20), fps=15)
    seconds = np.append(0, np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 39)))
    film(raw / "phone.mp4", grays(40), seconds=seconds.tolist())
    dataset = import_recordings(open_recordings("videos", raw), tmp_path / "out")
    assert dataset.meta.fps == 30 and len(dataset.episodes()) == 6 and read_report(dataset.root) == []
    for name in ("a.mp4", "b.mkv", "ntsc.mp4"):
        assert shown(dataset, name) == list(range(40))
    assert shown(dataset, "double.mp4") == list(range(0, 40, 2))
    assert shown(dataset, "half.mp4") == [number // 2 for number in range(40)]
    phone = shown(dataset, "phone.mp4")
    now = np.arange(len(phone)) / 30
    assert (np.abs(seconds[phone] - now) < 0.06).all() and len(phone) > 40
    changes = {one.file: " ".join(one.changes) for one in read_changes(dataset.root)}
    assert sorted(changes) == ["double.mp4", "half.mp4", "ntsc.mp4", "phone.mp4"]
    assert changes["double.mp4"] == "40 frames, 60.00 a second, became 20, 30 a second, by their timestamps"
    assert changes["ntsc.mp4"] == "29.97 frames a second are taken for 30"
    # Copies have the same frames, and a setting brings all files to another rate.
    copies = import_recordings(open_recordings("videos", raw), tmp_path / "copies", encode=True)
    slow = import_recordings(open_recordings("videos", raw, fps=15), tmp_path / "slow")
    for name in ("phone.mp4", "half.mp4", "double.mp4"):
        assert shown(copies, name) == shown(dataset, name)
    assert slow.meta.fps == 15 and shown(slow, "double.mp4") == list(range(0, 40, 4))
    episode = slow.episode(0)
    assert isinstance(episode.frames, Video) and episode.frames.length == episode.length


def test_timestamps_that_jump_are_named(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "a.mp4", grays(10))
    film(tmp_path / "raw" / "b.mp4", grays(10), seconds=[0.05 * number + 7200 * (number > 4) for number in range(10)])
    dataset = import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "out")
    (broken,) = read_report(dataset.root)
    assert (broken.file, broken.where) == ("b.mp4", "b.mp4") and "timestamps that jump by 7200 seconds" in broken.what


def test_without_timestamps_the_declared_rate_holds(tmp_path: Path) -> None:
    path = film(tmp_path / "a.h264", grays(12), fps=10, form="h264")
    assert len(frame_times(path)) == 13


def segment(folder: Path, name: str, fps: int, keys: Sequence[str]) -> None:
    """A VPT recording whose lines have these keys; the last frame's is not read."""
    film(folder / f"{name}.mp4", grays(len(keys) + 1), fps=fps)
    write_lines(folder / f"{name}.jsonl", [vpt_line((key,) if key else ()) for key in (*keys, "")])


def test_actions_are_held_merged_or_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("a", "b"):
        segment(raw, name, 20, ("forward", "jump", ""))
    segment(raw, "held", 10, ("forward", "jump"))
    segment(raw, "merged", 40, ("forward", "forward", "jump", "jump", "", "", "jump"))
    segment(raw, "mixed", 40, ("forward", "jump", "", ""))
    segment(raw, "thirds", 30, ("forward", "jump"))
    dataset = import_recordings(VptSource(raw), tmp_path / "out", validation_share=0)
    assert dataset.meta.fps == 20
    by_name = {row.source: row.id for row in dataset.episodes()}
    forward, jump = (np.flatnonzero(dataset.episode(by_name["a"]).actions[t] == 1)[0] for t in (1, 2))

    def keys(name: str) -> list[str]:
        actions = dataset.episode(by_name[name]).actions
        return ["forward" if row[forward] else "jump" if row[jump] else "" for row in actions]

    assert keys("a") == ["", "forward", "jump", ""] and shown(dataset, "a") == [0, 1, 2, 3]
    assert keys("held") == ["", "forward", "forward", "jump", "jump"] and shown(dataset, "held") == [0, 0, 1, 1, 2]
    assert keys("merged") == ["", "forward", "jump", ""] and shown(dataset, "merged") == [0, 2, 4, 6]
    changes = {one.file: one.changes for one in read_changes(dataset.root)}
    assert "each action is held for 2 timesteps" in changes["held"][-1]
    assert "each 2 equal actions are merged" in changes["merged"][-1]
    broken = {one.file: one.what for one in read_report(dataset.root)}
    assert sorted(broken) == ["mixed", "thirds"]
    assert "actions of timesteps 1 to 2 differ" in broken["mixed"]
    assert "30 frames a second, the dataset 20; with actions, one must be a multiple" in broken["thirds"]


def test_what_comes_with_actions_is_kept(tmp_path: Path) -> None:
    """Rewards are summed, and events are where the frame that shows them is."""
    path = film(tmp_path / "a.mp4", grays(5))
    events = np.zeros((5, 1), bool)
    events[3] = True
    episode = Episode(
        frames=Video(path, 0, 5, np.arange(10, dtype=np.int16).reshape(5, 2)),
        actions=np.array([[0], [1], [1], [2], [2]]),
        rewards=np.array([0, 1, 2, 3, 4], np.float32),
        is_terminal=np.array([False] * 4 + [True]),
        task="*",
        label="",
        source="a",
        noise=0.0,
        seed=1,
        success=True,
        events=events,
        camera=np.array([[0, 0], [1, 0], [3, 0], [5, 0], [5, 0]], np.float32),
        is_null=np.zeros(5, bool),
    )
    merged, held = at_rate(episode, 20, 10), at_rate(episode, 20, 60)
    assert merged.rewards.tolist() == [0, 3, 7] and merged.actions[:, 0].tolist() == [0, 1, 2]
    assert merged.is_terminal.tolist() == [False, False, True]
    assert merged.events is not None and np.flatnonzero(merged.events).tolist() == [2]
    assert merged.camera is not None and merged.camera[:, 0].tolist() == [0, 2, 5]
    assert isinstance(merged.frames, Video) and merged.frames.cursor is not None
    assert merged.frames.cursor[:, 0].tolist() == [0, 4, 8]
    assert held.length == 13 and np.flatnonzero(held.rewards).tolist() == [3, 6, 9, 12]
    assert held.events is not None and np.flatnonzero(held.events).tolist() == [9] and held.is_terminal[-1]
    assert isinstance(held.frames, Video) and held.frames.numbers.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]


def test_frame_numbers_are_checked(tmp_path: Path) -> None:
    for numbers in ([0, 1], [0, 2, 1], [1, 2, 3]):
        with pytest.raises(UserError, match="frame_numbers must be int32"):
            Video(tmp_path, 0, 3, None, np.array(numbers, np.int32))
    assert Video(tmp_path, 4, 3, None, np.array([4, 4, 9], np.int32)).numbers.tolist() == [4, 4, 9]
    assert Video(tmp_path, 4, 3).numbers.tolist() == [4, 5, 6]


# --- odd files ------------------------------------------------------------------------------------------------------

KINDS = {  # codec and pixels of each container
    **dict.fromkeys(("a.mp4", "b.mov", "LOUD.MP4", "c.mkv", "d.ts", "e.flv"), ("libx264", "yuv420p")),
    **dict.fromkeys(("f.3gp", "in/ner.m4v"), ("libx264", "yuv420p")),
    **{"g.mpg": ("mpeg2video", "yuv420p"), "h.avi": ("mpeg4", "yuv420p"), "i.webm": ("libvpx-vp9", "yuv420p")},
    **{"j.gif": ("gif", "rgb8"), "k.wmv": ("wmv2", "yuv420p"), "l.nut": ("mpeg4", "yuv420p")},
}  # fmt: skip


def test_every_file_is_taken_or_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name, (codec, pixels) in KINDS.items():
        film(raw / name, grays(24), fps=25, codec=codec, pixels=pixels)
    shutil.copy(raw / "a.mp4", raw / "without a suffix")
    shutil.copy(raw / "a.mp4", raw / ".hidden.mp4")
    (raw / ".trash").mkdir()
    shutil.copy(raw / "a.mp4", raw / ".trash" / "a.mp4")
    (raw / "folder.mp4").mkdir()
    (raw / "link").symlink_to(tmp_path)
    (raw / "notes.txt").write_text("no video")
    Image.new("RGB", (32, 32)).save(raw / "picture.png")
    (raw / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nd.ts\n#EXT-X-ENDLIST\n")
    (raw / "list.mp4").write_text((raw / "list.m3u8").read_text())
    (raw / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (raw / "broken link.mp4").symlink_to("nowhere.mp4")
    (raw / "empty.mp4").write_bytes(b"")
    os.mkfifo(raw / "pipe.mp4")
    os.mkfifo(raw / "pipe")
    dataset = import_recordings(VideoSource(raw), tmp_path / "out")
    rows = dataset.episodes()
    assert {row.source for row in rows} == {*KINDS, "without a suffix"}
    for row in rows:
        assert abs(row.length - 24) <= 1, row.source
        frames = dataset.frames(row.id, 0, row.length)
        assert abs(frames[5].mean() - 20) < 6 and abs(frames[20].mean() - 80) < 6, row.source
    assert {one.file for one in read_report(dataset.root)} == {"broken link.mp4", "empty.mp4", "list.mp4", "pipe.mp4"}
    assert read_other_files(dataset.root) == {
        ".hidden.mp4": "hidden",
        ".trash": "hidden",
        "folder.mp4": "a folder",
        "link": "a link to a folder, which is not followed",
        "list.ffconcat": "not a video",
        "list.m3u8": "not a video",
        "notes.txt": "not a video",
        "picture.png": "not a video",
        "pipe": "not a video",
    }


def test_copies_of_files_with_like_names_stay_apart(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "a.mp4", grays(5))
    shutil.move(film(tmp_path / "raw" / "b.mp4", grays(9)), tmp_path / "raw" / "a")
    dataset = import_recordings(VideoSource(tmp_path / "raw"), tmp_path / "out", encode=True)
    assert sorted((row.source, row.length) for row in dataset.episodes()) == [("a", 9), ("a.mp4", 5)]
    assert shown(dataset, "a.mp4") == list(range(5)) and shown(dataset, "a") == list(range(9))


def test_hidden_segments_are_left_alone(tmp_path: Path) -> None:
    segment(tmp_path / "raw", "a", 20, ("forward",))
    for suffix in ("mp4", "jsonl"):
        (tmp_path / "raw" / f"._a.{suffix}").write_bytes(b"what macOS writes beside it")
    (tmp_path / "raw" / "b.mkv").write_bytes(b"")
    source = VptSource(tmp_path / "raw")
    assert source.names() == ["a"]
    assert source.other_files() == {"._a.jsonl": "hidden", "._a.mp4": "hidden", "b.mkv": "neither .mp4 nor .jsonl"}


def test_a_run_says_how_videos_fit_its_frames(tmp_path: Path) -> None:
    film(tmp_path / "raw" / "a.mp4", [square_in(90, 160)] * 5)
    said: list[str] = []

    class Logger:
        info = warning = said.append

    datasets = []
    for fit in ("letterbox", "crop"):
        import_recordings(open_recordings("videos", tmp_path / "raw", fit=fit), tmp_path / fit)
        datasets.append(open_dataset(tmp_path / fit, (64, 64)))
    config = preset("minecraft_small")
    inputs(config, datasets, Logger())  # type: ignore[arg-type]
    assert f"dataset {tmp_path / 'crop'}: 160x90 pixels cropped to the shape of 64x64" in said
    assert any("fit videos to other shapes in different ways (crop, letterbox)" in line for line in said)
    said.clear()
    film(tmp_path / "square" / "a.mp4", grays(5, (96, 96)))
    import_recordings(open_recordings("videos", tmp_path / "square"), tmp_path / "same")
    inputs(config, [open_dataset(tmp_path / "same", (64, 64))], Logger())  # type: ignore[arg-type]
    assert not any("shape" in line for line in said)


def test_copies_are_turned_and_of_the_new_rate(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", grays(30, (48, 80)), matrix=(0, -UNIT, 0, UNIT, 0, 0, 0, 0, 2**30))
    copy = reencode(Video(path, 6, 5, None, np.array([6, 6, 9, 20, 20], np.int32)), tmp_path / "b.mp4")
    assert copy == Video(tmp_path / "b.mp4", 0, 5)
    frames = OpenVideos().read(copy, index_video(copy.path), identity(copy.path), 80, 48, "letterbox")
    assert np.round(frames.mean(axis=(1, 2, 3)) / 4).tolist() == [6, 6, 9, 20, 20]
    assert (frames[4] > 70).all()  # no bars
