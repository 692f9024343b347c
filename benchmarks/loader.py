"""How fast episodes are read: `python -m benchmarks.loader`, some ten minutes.

Frames a second decoded one after the other and random clips of 16 and 64 frames, from video files as recorded and as
`reencode` makes them; then clips of latents beside a plain copy of the same clips out of the memory map; then how long
steps of `minecraft_small` wait for two loading processes: its tokenizer from these videos, its dynamics from latents.
Files of one's own: `--videos`. Prints a table, writes JSON.
"""

import argparse
import datetime
import itertools
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from benchmarks.machine import describe
from benchmarks.run import ROOT, commit, save
from embody.cli.operating_system import keep_freed_memory
from embody.config import ActionSpec
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    DatasetWriter,
    Episode,
    EpisodeSelection,
    LatentWriter,
    Meta,
    Relabelling,
    Video,
    batches,
    index_video,
    open_dataset,
    open_latents,
    reencode,
)
from embody.data.sampling.batch import Batch
from embody.games.minecraft.presets import minecraft_small
from embody.logger_manager import read_metrics
from embody.trainer import Trainer

__all__ = ["main", "markdown"]

CLIPS = (16, 64)  # frames
SHAPES = ((64, 64), (360, 640))  # of MineRL's and of VPT's recordings
TOKENS, CHANNELS = 256, 32
ACTIONS = ActionSpec((2,) * 23 + (121,))
ROWS = 16


def make_video(path: Path, height: int, width: int, frames: int) -> Path:
    """Textures that move like a game's camera, encoded as recordings are: rare key frames, B-frames."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    world = np.tile(coarse.repeat(8, axis=0).repeat(8, axis=1), (2, 2, 1))
    turns = np.cumsum(random.normal(0, 3, (frames, 2)), axis=0).round().astype(int)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, (y, x) in enumerate(turns % (2 * height, 2 * width)):
            image = world[y % (2 * height) :, x % (2 * width) :][:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def dataset_of(root: Path, frames: Sequence[Video] | int, size: tuple[int, int]) -> Dataset:
    """Episodes of these videos; of a number of timesteps instead, with nothing to see, to hang latents on."""
    videos: Sequence[Any] = [np.zeros((frames, *size, 3), np.uint8)] if isinstance(frames, int) else frames
    writer = DatasetWriter(root, Meta(("play",), ACTIONS, *size, 20, ("<pad>", "<unknown>")))
    episodes = []
    for seed, video in enumerate(videos):
        steps = video.length if isinstance(video, Video) else len(video)
        actions, nothing = np.zeros((steps, len(ACTIONS.sizes)), np.int64), np.zeros(steps, np.float32)
        episodes.append(Episode(video, actions, nothing, nothing > 0, "play", "", "human", 0.0, seed, True))
    writer.write_shard("train", 0, episodes)
    writer.finish()
    return open_dataset(root)


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units a second, `work` saying how many it did."""
    work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)


def _rows(stream: Iterator[Batch]) -> int:
    return next(stream).rows


# --- video ------------------------------------------------------------------------------------------------------------


def plain_read(paths: Sequence[Path]) -> Iterator[int]:
    """PyAV alone, on one thread: every frame in order, to RGB."""
    for path in itertools.cycle(paths):
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            to_rgb = VideoReformatter()
            for frame in container.decode(video=0):
                to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                yield 1


def torchcodec_read(paths: Sequence[Path]) -> Iterator[int] | None:
    """The same by torchcodec, where it and FFmpeg's libraries are installed."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError):
        return None

    def read() -> Iterator[int]:
        for path in itertools.cycle(paths):
            decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
            for number in range(len(decoder)):
                decoder.get_frame_at(number)
                yield 1

    return read()


def measure_videos(name: str, videos: Sequence[Video], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """A row for the files as they are, and one for them re-encoded."""
    rows = []
    for kind in ("as recorded", "re-encoded"):
        if kind == "re-encoded":
            videos = [reencode(video, folder / name / f"{i}.mp4") for i, video in enumerate(videos)]
        paths = [video.path for video in videos]
        with av.open(str(paths[0])) as container:
            size = container.streams.video[0].height, container.streams.video[0].width
        dataset = dataset_of(folder / f"{name} {kind}", videos, size)
        readers = {"plain": plain_read(paths), "torchcodec": torchcodec_read(paths)}
        row: dict[str, Any] = {"name": name, "kind": kind, "size": size}
        row["bytes_a_frame"] = sum(p.stat().st_size for p in paths) / sum(index_video(p).frames for p in paths)
        for reader, frames in readers.items():
            row[reader] = None if frames is None else rate(partial(next, frames), seconds)
        for length in CLIPS:
            loaded = batches([dataset], ClipSpec(EpisodeSelection("train"), BatchShapes(4, length)), seed=0)
            row[f"clips_of_{length}"] = rate(partial(_rows, loaded), seconds)
        rows.append(row)
    return rows


# --- latents ----------------------------------------------------------------------------------------------------------


def measure_latents(folder: Path, timesteps: int, seconds: float) -> dict[str, float]:
    """Clips a second of the memory map alone, of the loader, and of two processes."""
    dataset = dataset_of(folder / "latents", timesteps, (2, 2))
    writer = LatentWriter(dataset, "none", TOKENS, CHANNELS)
    for shard in writer.pending():
        with writer.filling(shard) as latents:
            latents[:] = np.random.default_rng(0).standard_normal((1, TOKENS, CHANNELS))
    spec = ClipSpec(EpisodeSelection("train"), BatchShapes(ROWS, 64), "none", relabelling=Relabelling(gamma=0.997))
    stored = open_latents(dataset, "none")
    random, held = np.random.default_rng(0), list[Any]([None])

    def copy() -> int:
        """As a loader must: into a new batch, while the last is in use."""
        batch = np.empty((ROWS, 64, TOKENS, CHANNELS), np.float16)
        for row, start in zip(batch, random.integers(0, timesteps - 64, ROWS).tolist(), strict=True):
            row[...] = stored.slice(0, start, start + 64)
        held[0] = batch
        return ROWS

    def loaded(workers: int) -> Iterator[Batch]:
        return batches([dataset], spec, seed=0, workers=workers)

    def clips(stream: Iterator[Batch]) -> int:
        held[0] = next(stream)
        return ROWS

    alone, processes = loaded(0), loaded(2)
    rounds = [(rate(copy, seconds / 3), rate(lambda: clips(alone), seconds / 3)) for _ in range(5)]
    copied, read = (sorted(rates)[2] for rates in zip(*rounds, strict=True))
    return {"memory_map": copied, "loader": read, "two_processes": rate(lambda: clips(processes), seconds)}


# --- training ---------------------------------------------------------------------------------------------------------


def measure_steps(folder: Path, videos: Sequence[Video], size: tuple[int, int], tiny: bool) -> list[dict[str, Any]]:
    """`minecraft_small` on these videos, fed by two processes: seconds a step, and the share that is waited for them.

    As the training itself measures both, after the first steps, in which the processes start.
    """
    dataset_of(folder / "data" / "vpt", videos, size)
    folders: dict[str, Any] = {f"{name}_dir": str(folder / name) for name in ("data", "models", "runs", "logs")}
    config = replace(minecraft_small(), **folders, workers=2)
    every = 1 if tiny else 4  # steps a measurement, of which the fourth is long
    brief: dict[str, Any] = {"steps": 5 * every, "log_every": every}
    if tiny:
        brief |= {"steps": 2, "batch": 1, "length": 2, "long_length": 0}
        config = replace(config, precision="float32")  # not measured
    for name in ("train_tokenizer", "train_dynamics"):
        config = replace(config, **{name: replace(getattr(config, name), **brief)})
    trainer = Trainer(config=config)
    trainer.train_tokenizer()
    trainer.encode()
    trainer.train_dynamics()
    rows = []
    for stage in ("tokenizer", "dynamics"):
        metrics = read_metrics(config.run_dir / "metrics.jsonl")
        lines = [line for line in metrics if line.get("stage") == stage and "data_wait" in line][1:]
        batch = getattr(config, f"train_{stage}").batch * getattr(config, f"train_{stage}").length
        step = statistics.median(batch / line["frames_per_second"] for line in lines)
        waited = statistics.median(line["data_wait"] for line in lines)
        about = {"stage": stage, "reads": "video" if stage == "tokenizer" else "latents", "size": size}
        rows.append({**about, "frames": batch, "seconds": step, "waited": waited})
    return rows


def markdown(results: Mapping[str, Any]) -> str:
    """Videos, latents, training."""
    head = ["files", "bytes a frame", "plain read", "torchcodec", *(f"clips of {n} /s" for n in CLIPS)]
    lines = [head, ["---"] * len(head)]
    for row in results["videos"]:
        codec = f"{row['torchcodec']:,.0f}" if row["torchcodec"] else "-"
        clips = []
        for length in CLIPS:
            share = row[f"clips_of_{length}"] * length / row["plain"]
            clips.append(f"{row[f'clips_of_{length}']:,.1f} ({share:.0%} of the plain read)")
        about = f"{row['name']}, {row['size'][0]}x{row['size'][1]}, {row['kind']}"
        lines.append([about, f"{row['bytes_a_frame']:,.0f}", f"{row['plain']:,.0f} frames/s", codec, *clips])
    found = results["latents"]
    latents = (
        f"Latents, clips of 64 x {TOKENS} x {CHANNELS} a second: {found['memory_map']:,.0f} copied from the memory map,"
        f" {found['loader']:,.0f} by the loader ({found['loader'] / found['memory_map']:.0%}; goal 80%),"
        f" {found['two_processes']:,.0f} by two processes."
    )
    head = ["minecraft_small, two loading processes", "frames a step", "step", "of it waiting for them (goal 5%)"]
    steps = [head, ["---"] * len(head)]
    for row in results["steps"]:
        source = f"{row['reads']} of {row['size'][0]}x{row['size'][1]}" if row["reads"] == "video" else "latents"
        about = f"{row['stage']}, from {source}"
        steps.append([about, str(row["frames"]), f"{row['seconds']:.2f} s", f"{row['waited']:.1%}"])
    tables = ["\n".join(f"| {' | '.join(line)} |" for line in table) for table in (lines, steps)]
    return "\n\n".join([tables[0], latents, tables[1]])


def main(words: Sequence[str] | None = None) -> Path:
    """Measure; where the results went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="files of one size; made up by default")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--tiny", action="store_true", help="next to nothing of all: only whether it runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(words)
    keep_freed_memory()  # as every command does
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds, frames, timesteps = (0.05, 70, 80) if options.tiny else (options.seconds, 1200, 12_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.videos:
            own = [Video(path, 0, index_video(path).frames) for path in options.videos]
            videos = measure_videos("given", own, folder, seconds)
            size = videos[0]["size"]
        else:
            videos = []
            for height, width in SHAPES:
                own, size = (
                    [Video(make_video(folder / f"{height}.mp4", height, width, frames), 0, frames)],
                    (height, width),
                )
                videos += measure_videos(f"made {height}", own, folder, seconds)
        latents = measure_latents(folder, timesteps, seconds)
        torch.set_num_threads(threads)
        steps = measure_steps(folder, own, size, options.tiny)
    results = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks.loader", *(sys.argv[1:] if words is None else words)]),
        "machine": describe(),
        "settings": {"torch": torch.__version__, "av": av.__version__, "threads": 1, "training_threads": threads},
        "videos": videos,
        "latents": latents,
        "steps": steps,
    }
    print(markdown(results))
    return save(results, options.results, "loader")


if __name__ == "__main__":
    print(f"\n{main()}")
