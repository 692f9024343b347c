"""Exact random access to frames of video files, in real recordings and hand-made ones."""

import dataclasses
import itertools
import multiprocessing
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from embody.config import ActionSpec, Fit
from embody.data import (
    EVERY_TASK,
    BatchShapes,
    ClipSpec,
    Dataset,
    DatasetWriter,
    Episode,
    EpisodeSelection,
    Meta,
    Placement,
    Video,
    batches,
    index_video,
    open_dataset,
    open_latents,
    reencode,
)
from embody.data.container import identity
from embody.data.video import OpenVideos, draw_pointer
from embody.tokenizer import Tokenizer
from embody.training.encode import encode_dataset
from tests.tiny_models import FRAME, TOKENIZER

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
REAL = ("minestudio/build_pillar_0.mp4", "minerl_navigate/1f493ca1-5451-47ef-b9d2-5b0c229790bc.mp4")


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"no recording at {DATA / name}")
    return (DATA / name).resolve()


def read(video: Video, height: int, width: int, files: OpenVideos | None = None, fit: Fit = "letterbox") -> np.ndarray:
    return (files or OpenVideos()).read(video, index_video(video.path), identity(video.path), height, width, fit)


def decoded(path: Path) -> np.ndarray:
    """All frames in order, decoded by PyAV only."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def make_video(
    path: Path, frames: int, codec: str = "libx264", times: list[int] | None = None, options: str = ""
) -> Path:
    """A video of 64x48 pixels, in which a bar of bits encodes the number of each frame."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"x264-params": options} if codec == "libx264" else {}
        if codec != "libx264":
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
            stream.codec_context.time_base = Fraction(1, 20)
        for number in range(frames):
            image = np.full((48, 64, 3), 40, np.uint8)
            for bit in range(8):
                image[:, 8 * bit : 8 * bit + 8] = 220 * (number >> bit & 1)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = number if codec != "libx264" else times[number] if times else 50 * number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(frames: np.ndarray) -> list[int]:
    bits = frames[:, 24, 4::8, 0] > 128
    return (bits * 2 ** np.arange(8)).sum(axis=1).tolist()


# --- access ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "clip"), [(REAL[0], 25), (REAL[1], 2)])
def test_random_access_equals_sequential_decoding(name: str, clip: int) -> None:
    path = real(name)
    with av.open(str(path)) as container:
        whole = [hash(frame.to_ndarray(format="rgb24").tobytes()) for frame in container.decode(video=0)]
        height, width = container.streams.video[0].height, container.streams.video[0].width
    assert len(set(whole)) > 0.9 * len(whole)
    index = index_video(path)
    assert index.frames == len(whole) and index.keys[0] == 0 and len(index.keys) > 1
    forward = np.arange(0, len(whole), clip)
    shuffled = np.random.default_rng(0).permutation(forward).tolist()
    at_keys = [int(k) + d for k in index.keys[1:3] for d in (0, -1)]  # on a key frame, and just before one
    for starts in (forward.tolist(), shuffled + at_keys):
        files = OpenVideos()
        for start in starts:
            frames = read(Video(path, start, min(clip, len(whole) - start)), height, width, files)
            assert [hash(frame.tobytes()) for frame in frames] == whole[start : start + len(frames)]


IRREGULAR = list(np.cumsum(np.random.default_rng(1).integers(1, 300, 100)) + 700)


@pytest.mark.parametrize(
    ("name", "codec", "times", "options", "seekable"),
    [
        ("closed.mp4", "libx264", None, "keyint=12:bframes=3:scenecut=0", True),
        ("irregular.mp4", "libx264", IRREGULAR, "keyint=12:bframes=3:scenecut=0", True),
        ("irregular.mkv", "libx264", IRREGULAR, "keyint=12:bframes=3:scenecut=0", True),
        ("open.mp4", "libx264", None, "keyint=12:bframes=3:scenecut=0:open-gop=1:b-adapt=0", None),
        ("no-times.avi", "mpeg4", None, "", False),
    ],
)
def test_frames_are_counted_whatever_their_timestamps(
    tmp_path: Path, name: str, codec: str, times: list[int] | None, options: str, seekable: bool | None
) -> None:
    path = make_video(tmp_path / name, 100, codec, times, options)
    assert numbers(decoded(path)) == list(range(100))
    index, files = index_video(path), OpenVideos()
    assert index.frames == 100
    if seekable is not None:
        assert (len(index.keys) > 5) == seekable
    for start in np.random.default_rng(0).permutation(98).tolist():
        assert numbers(read(Video(path, start, 3), 48, 64, files)) == [start, start + 1, start + 2]
    with pytest.raises(ValueError, match="has 100 frames: frames 99 to 101 do not exist"):
        read(Video(path, 99, 2), 48, 64, files)


def test_going_on_costs_no_seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, files = make_video(tmp_path / "a.mp4", 100, options="keyint=50"), OpenVideos()
    read(Video(path, 0, 10), 48, 64, files)
    monkeypatch.setattr("embody.data.video._File._seek", lambda *_: pytest.fail("a seek"))
    assert numbers(read(Video(path, 10, 10), 48, 64, files)) == list(range(10, 20))
    assert numbers(read(Video(path, 30, 2), 48, 64, files)) == [30, 31]


def test_resizing_is_the_mean_over_the_area(tmp_path: Path) -> None:
    path = real(REAL[0])
    whole, small = read(Video(path, 300, 2), 360, 640), read(Video(path, 300, 2), 36, 64)
    means = whole.reshape(2, 36, 10, 64, 10, 3).mean(axis=(2, 4))
    assert np.abs(small - means).max() < 1  # rounded


# --- the pointer ----------------------------------------------------------------------------------------------------


def test_the_pointer_is_drawn_where_it_was(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 20)
    cursor = np.array([[-1, -1], [10, 5], [60, 44], [63, 0]], np.int16)
    before, drawn = read(Video(path, 7, 4), 48, 64), read(Video(path, 7, 4, cursor), 48, 64)
    np.testing.assert_array_equal(before[0], drawn[0])
    changed = (before != drawn).any(axis=-1)
    for t, (x, y) in enumerate(cursor[1:], 1):
        outside = np.ones((48, 64), bool)
        outside[y : y + 16, x : x + 16] = False
        assert not (changed[t] & outside).any()
        assert (drawn[t, y, x] == 0).all()  # its tip is black
    assert (drawn[1, 5 + 8, 10 + 3] == 255).all() and changed[1].sum() > 40  # white inside
    small = read(Video(path, 7, 4, cursor), 24, 32)  # drawn, then resized
    assert np.abs(small[1].astype(int) - drawn[1].reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 2


def test_a_pointer_outside_is_cut() -> None:
    for x, y in ((-3, -5), (100, 10), (10, 100), (-40, 0)):
        frame = np.full((20, 20, 3), 7, np.uint8)
        draw_pointer(frame, x, y)
        assert (frame != 7).any() == (x == -3)


# --- what cannot be read ----------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read_say_which_and_why(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", 60, options="keyint=10")
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])  # faststart: all is listed, not all there
    (tmp_path / "headless.mp4").write_bytes(content[: content.index(b"moov") - 4])
    (tmp_path / "text.mp4").write_text("no video at all")
    with av.open(str(tmp_path / "empty.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    for name, reason in (
        ("cut.mp4", "is truncated"),
        ("headless.mp4", "cannot be read"),
        ("text.mp4", "cannot be read"),
        ("empty.avi", "has no frame"),
        ("sound.wav", "no video stream"),
        ("missing.mp4", "is missing"),
    ):
        with pytest.raises(ValueError, match=rf"video .*{name} .*({reason})") as raised:
            index_video(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_real_recording_cut_off(tmp_path: Path) -> None:
    content = real(REAL[0]).read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="half.mp4 (is truncated|cannot be read)"):
        index_video(tmp_path / "half.mp4")


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_a_matroska_file_cut_off(tmp_path: Path, suffix: str) -> None:
    """Matroska lists no frames: truncation is noticed by the declared duration, also with sound."""
    path = tmp_path / f"whole.{suffix}"
    with av.open(str(path), "w") as container:
        codecs = ("libx264", "aac") if suffix == "mkv" else ("libvpx", "libopus")
        stream, sound = container.add_stream(codecs[0], rate=20), container.add_stream(codecs[1], rate=48_000)
        stream.width = stream.height = 64
        for number in range(80):
            image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            samples = av.AudioFrame.from_ndarray(np.zeros((2, 2880), np.float32), "fltp", "stereo")  # longer: 4.8 s
            samples.sample_rate, samples.pts = 48_000, 2880 * number
            container.mux(sound.encode(samples))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    assert index_video(path).frames == 80
    content = path.read_bytes()
    for share in (0.3, 0.8):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} is truncated: it holds only \d+ frames"):
            index_video(cut)


def test_damage_inside_a_frame_shows_when_it_is_read(tmp_path: Path) -> None:
    """As docs/data.md says: re-encoding reads all frames."""
    content = bytearray(real(REAL[1]).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    index = index_video(path)
    whole = Video(path, 0, index.frames)
    with pytest.raises(ValueError, match=r"damaged\.mp4 cannot be read"):
        OpenVideos().read(whole, index, identity(path), 64, 64, "letterbox")
    with pytest.raises(ValueError, match=r"damaged\.mp4 cannot be read"):
        reencode(whole, tmp_path / "anew.mp4")
    assert not (tmp_path / "anew.mp4").exists()


# --- re-encoding ------------------------------------------------------------------------------------------------------


def test_reencoded_for_random_access(tmp_path: Path) -> None:
    path = real(REAL[0])
    cursor = np.full((60, 2), -1, np.int16)
    short = reencode(Video(path, 250, 60, cursor), tmp_path / "new" / "short.mp4")
    assert short == Video(tmp_path / "new" / "short.mp4", 0, 60, cursor)
    index = index_video(short.path)
    assert index.frames == 60 and index.keys.tolist() == list(range(0, 60, 8))
    with av.open(str(short.path)) as container:
        assert {av.video.frame.PictureType(frame.pict_type).name for frame in container.decode(video=0)} == {"I", "P"}
    content = short.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    one, two = read(Video(path, 250, 60), 360, 640), read(dataclasses.replace(short, cursor=None), 360, 640)
    error = ((one.astype(float) - two) ** 2).mean(axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / error)).min() > 33  # dB of every frame
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["short.mp4"]
    with pytest.raises(ValueError, match="has 600 frames, the episode needs 601"):
        reencode(Video(path, 599, 2), tmp_path / "none.mp4")


# --- datasets ---------------------------------------------------------------------------------------------------------

META = Meta(
    ("log", "planks"), ActionSpec((2, 5)), 24, 32, 20, ("<pad>", "<unknown>", "mine", "log"), ("mine log", "planks")
)


def recording(video: Video, seed: int, **fields: object) -> Episode:
    random, steps = np.random.default_rng(seed), video.length
    actions = random.integers(0, (2, 5), (steps, 2))
    actions[0] = 0
    events = random.random((steps, 2)) < 0.2
    events[0] = False
    values = {
        "frames": video,
        "actions": actions,
        "rewards": np.zeros(steps, np.float32),
        "is_terminal": np.zeros(steps, bool),
        "task": EVERY_TASK,
        "label": "",
        "source": "human",
        "noise": 0.0,
        "seed": seed,
        "success": False,
        "events": events,
        "camera": random.normal(size=(steps, 2)).astype(np.float32),
        "is_null": random.random(steps) < 0.3,
    }
    return Episode(**{**values, **fields})  # type: ignore[arg-type]


def plain(video: Video, seed: int) -> Episode:
    actions, nothing = np.zeros((video.length, 2), np.int64), {"events": None, "camera": None, "is_null": None}
    return recording(video, seed, labelled=False, task="log", actions=actions, **nothing)


def write(root: Path, *shards: list[Episode]) -> Dataset:
    writer = DatasetWriter(root, META)
    for number, episodes in enumerate(shards):
        writer.write_shard("train", number, episodes)
    writer.finish()
    return open_dataset(root)


def assert_same(a: Episode, b: Episode) -> None:
    for field in dataclasses.fields(Episode):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, Video):
            assert (x.path.resolve(), x.start, x.length) == (y.path.resolve(), y.start, y.length)
            x, y = x.cursor, y.cursor
        assert (x is None) == (y is None), field.name
        np.testing.assert_array_equal(x, y, field.name)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)


def test_recordings_come_back_as_they_were_written(tmp_path: Path) -> None:
    outside = make_video(tmp_path / "outside.mp4", 100)
    cursor = np.tile(np.array([20, 10], np.int16), (30, 1))
    writer = DatasetWriter(tmp_path / "new", META)
    inside = shutil.copy(make_video(tmp_path / "b.mp4", 40), tmp_path / "new" / "b.mp4")
    episodes = [recording(Video(outside, 60, 30, cursor), 1), plain(Video(outside, 0, 60), 2)]
    last = recording(Video(Path(inside), 5, 20), 3, camera=None, is_null=None)
    writer.write_shard("train", 0, episodes)
    writer = DatasetWriter(tmp_path / "new", META)  # as after a kill
    writer.write_shard("train", 1, [last])
    writer.finish()
    dataset = open_dataset(tmp_path / "new")
    assert '"format_version": 2' in (tmp_path / "new" / "meta.json").read_text()
    for number, episode in enumerate((*episodes, last)):
        assert_same(dataset.episode(number), episode)
    assert [row.labelled for row in dataset.episodes()] == [True, False, True]
    assert dataset.frames(1, 3, 7).shape == (4, 24, 32, 3)
    native = open_dataset(tmp_path / "new", (48, 64))
    assert numbers(native.frames(2, 3, 7)) == [8, 9, 10, 11]
    assert (native.frames(0, 3, 4)[0, 10, 20] == 0).all()  # the pointer's tip
    before = dataset.frames(2, 3, 7)
    shutil.move(tmp_path / "new", tmp_path / "moved")  # what lies inside moves along
    moved = open_dataset(tmp_path / "moved")
    np.testing.assert_array_equal(moved.frames(2, 3, 7), before)
    assert moved.fingerprint == native.fingerprint


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 40)
    with pytest.raises(ValueError, match="has 40 frames, the episode with seed 1 needs 41"):
        write(tmp_path / "x", [recording(Video(path, 11, 30), 1)])
    with pytest.raises(ValueError, match="either all episodes or none must have video"):
        pixels = np.zeros((30, 24, 32, 3), np.uint8)
        write(tmp_path / "y", [recording(Video(path, 0, 30), 1)], [recording(Video(path, 0, 30), 1, frames=pixels)])
    good = recording(Video(path, 0, 30), 1)
    for change, message in (
        ({"task": "log"}, "if, and only if"),
        ({"events": None}, "if, and only if"),
        ({"events": np.ones((30, 2), bool)}, "timestep 0"),
        ({"labelled": False}, "all-zero actions and no events"),
        ({"camera": np.full((30, 2), np.nan, np.float32)}, "camera must be finite"),
        ({"camera": np.zeros((30, 3), np.float32)}, r"camera must be \[30, 2\]"),
        ({"is_null": np.zeros(29, bool)}, "is_null has 29 steps, frames 30"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(ValueError, match="events have 3 columns, the dataset 2 tasks"):
        write(tmp_path / "z", [recording(Video(path, 0, 30), 1, events=np.zeros((30, 3), bool))])
    with pytest.raises(ValueError, match="cursor must be int16"):
        Video(path, 0, 30, np.zeros((29, 2), np.int16))


def test_the_fingerprint_follows_what_is_recorded(tmp_path: Path) -> None:
    path, other = (make_video(tmp_path / f"{n}.mp4", n) for n in (40, 41))
    base = recording(Video(path, 0, 30), 1)
    flipped = np.array(base.events)
    flipped[7] ^= True
    episodes = [
        base,
        recording(Video(path, 1, 30), 1),
        recording(Video(other, 0, 30), 1),
        dataclasses.replace(base, events=flipped),
        dataclasses.replace(base, camera=np.zeros((30, 2), np.float32)),
        dataclasses.replace(base, is_null=~np.array(base.is_null)),
        dataclasses.replace(base, frames=Video(path, 0, 30, np.zeros((30, 2), np.int16))),
    ]
    prints = [write(tmp_path / f"set{i}", [episode]).fingerprint for i, episode in enumerate((*episodes, base))]
    assert len(set(prints)) == len(episodes) and prints[0] == prints[-1]


def test_a_file_that_is_gone_or_has_changed_is_named(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 40)
    content = path.read_bytes()
    dataset = write(tmp_path / "set", [recording(Video(path, 0, 30), 1)])
    path.write_bytes(content[:-1] + b"x")  # of the same size
    with pytest.raises(ValueError, match="a.mp4 has changed"):
        dataset.frames(0, 0, 3)
    path.write_bytes(content + b"x")
    with pytest.raises(ValueError, match="a.mp4 has changed"):
        open_dataset(tmp_path / "set")
    path.unlink()
    for looking in (lambda: open_dataset(tmp_path / "set"), lambda: dataset.frames(0, 0, 3)):
        with pytest.raises(ValueError, match="a.mp4 is missing") as raised:
            looking()
        assert "\n" not in str(raised.value)


def _read_in_process(dataset: Dataset, place: "multiprocessing.Queue[list[int]]") -> None:
    place.put(numbers(dataset.frames(0, 40, 45)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_their_own_files(tmp_path: Path, method: str) -> None:
    write(tmp_path / "set", [recording(Video(make_video(tmp_path / "a.mp4", 60), 0, 60), 1)])
    dataset = open_dataset(tmp_path / "set", (48, 64))
    assert numbers(dataset.frames(0, 10, 12)) == [10, 11]
    context = multiprocessing.get_context(method)
    place = context.Queue()
    child = context.Process(target=_read_in_process, args=(dataset, place))
    child.start()
    assert place.get(timeout=60) == [40, 41, 42, 43, 44]
    child.join()
    assert numbers(dataset.frames(0, 12, 14)) == [12, 13]


def test_batches_of_video_are_the_same_however_they_are_loaded(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 100)
    dataset = write(tmp_path / "set", [recording(Video(path, 0, 60), 1), plain(Video(path, 60, 40), 2)])
    clips = ClipSpec(EpisodeSelection("train"), BatchShapes(4, 6), placement=Placement(left_pad=2))

    def take(number: int, **settings: int) -> list[torch.Tensor]:
        loaded = batches([dataset], clips, seed=3, **settings)
        return [batch.frames for batch in itertools.islice(loaded, number) if batch.frames is not None]

    whole = take(6)
    for resumed in (take(4, start=2), take(4, start=2, workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))


def test_latents_of_long_videos_are_made_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents equal those encoded frame by frame while acting, for all sizes of chunks."""
    path = make_video(tmp_path / "a.mp4", 100)
    write(tmp_path / "set", [recording(Video(path, 0, 60), 1), plain(Video(path, 60, 13), 2)])
    dataset = open_dataset(tmp_path / "set", FRAME)
    torch.manual_seed(0)
    tokenizer = Tokenizer(TOKENIZER, FRAME).eval()
    for block in tokenizer.encoder.blocks:  # time layers start as the identity
        torch.nn.init.normal_(block.attention.out.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    asked = []
    frames = Dataset.frames
    monkeypatch.setattr(Dataset, "frames", lambda self, i, a, b: (asked.append(b - a), frames(self, i, a, b))[1])
    monkeypatch.setattr("embody.training.encode._PIECE", 7 * 2 * FRAME[0] * FRAME[1] * 3)
    encode_dataset(tokenizer, "abc", dataset)
    assert max(asked) == 7
    latents = open_latents(dataset, "abc")
    for episode, length in ((0, 60), (1, 13)):
        cache = tokenizer.encoder_cache(1)
        for t, frame in enumerate(frames(dataset, episode, 0, length)):
            with torch.no_grad():
                acting = tokenizer.encode(torch.from_numpy(frame).permute(2, 0, 1)[None, None], cache=cache)[0, 0]
            stored = latents.slice(episode, t, t + 1)[0].astype(np.float32)
            np.testing.assert_allclose(stored, acting, atol=2e-3, rtol=2e-3)
