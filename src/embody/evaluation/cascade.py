"""The paper's cascade, small but real: what each part of the dynamics adds, on the latents of a run.

Every row adds one thing to the row above. It is trained from nothing, with as many steps of as many frames as the
others, then dreams the same held-out clips. All rows share what the paper's cascade does not vary, and have it from the
run's config: size, rates, held contexts, the draw of tau, when and where the bootstrap is.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from embody.config import Config, DynamicsObjective, StageConfig, digest, to_dict
from embody.data import BatchShapes, Dataset, atomic_write, recorded_actions, write_json
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.evaluation.held_out import dream_held_out
from embody.games import game
from embody.imagination import Dream
from embody.logger_manager import LoggerManager
from embody.metrics.rollouts import NEAR, FrameMeasures, measure
from embody.nn.noise import GeneratorNoise
from embody.tokenizer import Tokenizer
from embody.training.dynamics import DynamicsStage
from embody.training.loop import train

__all__ = ["Row", "ablate", "cascade", "frames_per_second"]

_TIMED = 15  # generated frames, of whose times the median is taken

Results = dict[str, dict[str, dict[str, float | None]]]  # by row, seed and measure


@dataclass(frozen=True)
class Row:
    """One line of the cascade."""

    name: str
    config: Config  # the run's, but for the dynamics, its objective and training, and how it is sampled
    paper: tuple[str, str, str]  # seconds a step, frames a second, FVD; empty where the paper gives none

    @property
    def training(self) -> str:
        """Equal for rows that one training serves: those that differ in how they are sampled alone."""
        config = self.config
        return digest([to_dict(part) for part in (config.dynamics, config.dynamics_objective, config.train_dynamics)])


def cascade(config: Config) -> list[Row]:
    """The rows, from diffusion forcing to all parts of `config`, and the ramp.

    The first ones train on long clips only, fewer of them: batches of all rows hold as many frames.
    """
    full, objective, short = config.dynamics, config.dynamics_objective, config.train_dynamics
    length = max(short.long_length, short.length)
    stage = replace(short, batch=max(1, short.batch * short.length // length), length=length, long_length=0)
    trunk = replace(full.trunk, pattern="ST", kv_heads=full.trunk.heads)
    d = replace(full, trunk=trunk, registers=0, predict="v")
    o = replace(objective, loss_space="v", ramp=False, step_draw="partial", bootstrap_fraction=0.0)
    sampling = replace(config.sampling, k_sample=full.k_max)
    rows: list[Row] = []

    def add(name: str, paper: tuple[str, str, str]) -> None:
        own = replace(config, dynamics=d, dynamics_objective=o, train_dynamics=stage, sampling=sampling)
        rows.append(Row(name, own, paper))

    add(f"diffusion forcing, K = {full.k_max}", ("9.8", "0.8", "306"))
    sampling = replace(sampling, k_sample=min(4, full.k_max))
    add(f"K = {sampling.k_sample}", ("9.8", "9.1", "875"))
    o = replace(o, step_draw=objective.step_draw, bootstrap_fraction=objective.bootstrap_fraction)
    add("+ shortcut model", ("", "", "329"))
    d = replace(d, predict="x")
    add("+ x-prediction", ("", "", "326"))
    o = replace(o, loss_space="x")
    add("+ x-space loss", ("", "", "151"))
    o = replace(o, ramp=True)
    add("+ ramp weight", ("", "", "102"))
    stage = short
    add("+ alternating lengths", ("1.5", "", "80"))
    d = replace(d, trunk=replace(d.trunk, pattern=full.trunk.pattern))
    add("+ time layer every 4", ("0.6", "18.9", "70"))
    d = replace(d, trunk=full.trunk)
    add("+ GQA", ("0.5", "23.2", "71"))
    d = replace(d, registers=full.registers)
    add("+ registers", ("", "", "91"))
    return rows


def ablate(
    config: Config,
    tokenizer: Tokenizer,
    tokenizer_hash: str,
    datasets: Sequence[Dataset],
    logger: LoggerManager,
    *,
    steps: int,
    seeds: int,
    made: Mapping[str, str],
) -> Path:
    """Train and measure each row for `seeds` seeds from the config's on, `steps` steps each; returns `cascade.md`.

    `ablation.json` keeps what is finished; called again, only the rest is done. `made` is said in the table: command,
    machine, date. A `UserError` if the file was made with other settings, or no dataset has actions.
    """
    if steps < 1 or seeds < 1:
        raise UserError(f"ablate: steps {steps} and seeds {seeds} must be at least 1")
    if recorded_actions(datasets) is None:
        raise UserError("ablate: the datasets are plain videos, and no row can dream without actions: add recordings")
    rows, table = cascade(config), config.run_dir / "cascade.md"
    kept = _Kept(config.run_dir / "ablation.json", _settings(config, rows, tokenizer_hash, datasets, steps))
    of_game, frame_measures = game(config.env.game).evaluation().frame_measures, None
    for seed in range(config.seed, config.seed + seeds):
        for training in dict.fromkeys(row.training for row in rows):
            served = [row for row in rows if row.training == training]
            if all(kept.has(row, seed) for row in served):
                continue
            if of_game is not None and frame_measures is None:
                frame_measures = of_game(datasets)
            device = tokenizer.masked_D.device
            trained, seconds = _train(config, served[0], seed, steps, datasets, tokenizer_hash, logger, device)
            for row in served:
                dynamics = _with_weights_of(trained, row)
                found = _measure(row.config, dynamics, tokenizer, tokenizer_hash, datasets, frame_measures)
                kept.add(row, seed, found | {"step_seconds": seconds}, made)
                logger.info(f"{row.name}, seed {seed}: gain over copy {_decibels([found['gain_over_copy_db']])}")
            _write_table(table, rows, kept)
    _write_table(table, rows, kept)
    return table


class _Kept:
    """What is finished, in a file."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.made: Mapping[str, str] = {}
        self.results: Results = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.made, self.results, before = found["made"], found["results"], found["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it") from error
        if before != settings:
            different = next((name for name in settings if before.get(name) != settings[name]), "version")
            raise UserError(
                f"{path} was made with other settings ({different} differs): delete it, or use another --name"
            )

    def has(self, row: Row, seed: int) -> bool:
        return str(seed) in self.results.get(row.name, {})

    def add(self, row: Row, seed: int, found: Mapping[str, float | None], made: Mapping[str, str]) -> None:
        self.results.setdefault(row.name, {})[str(seed)] = dict(found)
        self.made = dict(made)
        write_json(self.path, {"settings": self.settings, "made": self.made, "results": self.results})

    def values(self, row: Row, name: str) -> list[float | None]:
        return [found[name] for found in self.results.get(row.name, {}).values()]


def _settings(
    config: Config, rows: Sequence[Row], tokenizer_hash: str, datasets: Sequence[Dataset], steps: int
) -> dict[str, Any]:
    """What the results depend on, but for the seeds."""
    return {
        "steps": steps,
        "rows": {row.name: row.training for row in rows},
        "evaluation": to_dict(_evaluation(config).evaluation),
        "context": config.imagination.context,
        "seed": config.seed,
        "data": [dataset.fingerprint for dataset in datasets],
        "tokenizer": tokenizer_hash,
        "precision": config.precision,
        "compile": config.compile,
    }


def _evaluation(config: Config) -> Config:
    return replace(config, evaluation=replace(config.evaluation, horizon=NEAR))


def _train(
    config: Config,
    row: Row,
    seed: int,
    steps: int,
    datasets: Sequence[Dataset],
    tokenizer_hash: str,
    logger: LoggerManager,
    device: torch.device,
) -> tuple[Dynamics, float]:
    """The row's dynamics and the seconds that a step took."""
    # The row in progress is lost when interrupted: its steps are timed as one.
    of_row = replace(row.config.train_dynamics, steps=steps, checkpoint_every=steps)
    whole = replace(row.config, seed=seed, train_dynamics=of_row)
    stage = DynamicsStage(whole, datasets, tokenizer_hash, name=f"{row.name}, seed {seed}")
    stage.model.to(device)
    stage.losses.to(device)
    checkpoint = config.checkpoint("ablation")
    checkpoint.unlink(missing_ok=True)
    start = time.perf_counter()
    train(
        stage,
        checkpoint=checkpoint,
        recipe={},
        logger=logger,
        precision=config.precision,
        seed=seed,
        recompute=config.recompute,
        compile=config.compile,
    )
    seconds = (time.perf_counter() - start) / steps
    checkpoint.unlink()
    return stage.model, seconds


@torch.no_grad()
def _with_weights_of(trained: Dynamics, row: Row) -> Dynamics:
    """A dynamics of the row's config. If only d_min was trained, its embedding is read for coarser steps too."""
    dynamics = Dynamics(row.config.dynamics, row.config.env.actions)
    dynamics.load_state_dict(trained.state_dict())
    if not row.config.dynamics_objective.bootstrap_fraction:
        dynamics.step.weight[:] = dynamics.step.weight[-1].clone()
    return dynamics.to(trained.register_RD.device).eval()


def _measure(
    config: Config,
    dynamics: Dynamics,
    tokenizer: Tokenizer,
    tokenizer_hash: str,
    datasets: Sequence[Dataset],
    frame_measures: FrameMeasures | None,
) -> dict[str, float | None]:
    dreams = dream_held_out(_evaluation(config), tokenizer, dynamics, datasets, tokenizer_hash)
    found = measure(dreams.rollouts, frame_measures)
    at_horizon = {name: found["horizon"][name][NEAR - 1] for name in ("psnr_db", "copy_psnr_db", "rollouts")}
    of_game = game(config.env.game).evaluation().ablation
    pooled = {name: found[name] for name in ("gain_over_copy_db", *of_game)}
    speed = frames_per_second(dynamics, config.sampling.k_sample)
    return at_horizon | pooled | {"frames_per_second": speed}


@torch.no_grad()
def frames_per_second(dynamics: Dynamics, k_sample: int) -> float:
    """Latent frames dreamt a second by one world with a full history, given its actions: K passes each, not decoded."""
    config, device = dynamics.config, dynamics.register_RD.device
    noise = GeneratorNoise(torch.Generator(device).manual_seed(0))
    dream = Dream(dynamics, k_sample=k_sample, noise=noise)
    z = noise.normal(1, config.context, config.tokens, config.channels)
    actions = torch.zeros(1, config.context, len(dynamics.actions.sizes), dtype=torch.long, device=device)
    dream.reset(z, actions, torch.zeros(1, config.context, dtype=torch.bool, device=device))
    dream.advance(actions[:, 0])  # the first has no frame to keep
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        float(dream.advance(actions[:, 0])[0].sum())  # a number: a GPU has done its work by then
        seconds.append(time.perf_counter() - start)
    return 1 / statistics.median(seconds)


# --- the table ------------------------------------------------------------------------------------------------------


def _write_table(path: Path, rows: Sequence[Row], kept: _Kept) -> None:
    """Means over seeds, with their range."""
    shown = {
        f"PSNR at h {NEAR}": ("psnr_db", _decibels),
        f"gain over copy, h 1-{NEAR}": ("gain_over_copy_db", _decibels),
        **{title: (name, _percent) for name, title in game(rows[0].config.env.game).evaluation().ablation.items()},
        "step": ("step_seconds", _seconds),
        "frames/s": ("frames_per_second", _plain),
    }
    header = ["row", *shown, "paper: step", "paper: frames/s", "paper: FVD"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        ours = [show(kept.values(row, name)) for name, show in shown.values()]
        seconds, *others = row.paper
        lines.append([row.name, *ours, seconds and f"{seconds} s", *others])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(["# The paper's cascade", *_what_was_run(rows, kept), table]) + "\n", "utf-8")


def _what_was_run(rows: Sequence[Row], kept: _Kept) -> list[str]:
    model, objective, settings = rows[-1].config.dynamics, rows[-1].config.dynamics_objective, kept.settings
    shapes = [_shapes(row.config.train_dynamics) for row in (rows[0], rows[-1])]
    counts = sorted({len(kept.results.get(row.name, {})) for row in rows})
    copied = next((value for value in kept.values(rows[0], "copy_psnr_db")), None)
    clips = next((value for value in kept.values(rows[0], "rollouts")), None)
    return [
        f"Made by `{kept.made.get('command')}` on {kept.made.get('date')}. Machine: {kept.made.get('machine')}."
        f" {settings['steps']} optimiser steps a row and seed, from nothing; seeds a row:"
        f" {' to '.join(map(str, counts))}; mean (least to most).",
        f"All rows: width {model.trunk.width}, depth {model.trunk.depth}, contexts {objective.contexts},"
        f" tau = u^{objective.tau_power:g}, {objective.image_fraction:.0%} separate images. The bootstrap, where it is"
        f" on: {_bootstrap(objective)}. Batches (frames x rows): {shapes[0]}, from `+ alternating lengths` on"
        f" {shapes[1]}.",
        f"Closed loop: {settings['evaluation']['context']} real frames, then the dream under the recorded actions."
        f" {clips} held-out clips reach horizon {NEAR}; copying the last frame has {_decibels([copied])} there."
        " Frames/s: one world, full history, cached, latents only, median. The paper's columns (Minecraft, 2B"
        " parameters, one H100; FVD, lower is better; empty: not stated) are for the direction, not the size; before"
        " registers it adds a factorised long context (0.4 s, 30.1 frames/s, FVD 91), which is not here.",
    ]


def _bootstrap(objective: DynamicsObjective) -> str:
    where = (
        f"{objective.bootstrap_fraction:.0%} of the rows" if objective.step_draw == "partial" else "a uniform draw of d"
    )
    return f"{where}, after {objective.bootstrap_start:.0%} of the steps"


def _shapes(stage: StageConfig) -> str:
    return " and ".join(f"{length} x {rows}" for rows, length in BatchShapes.of(stage).distinct())


def _over_seeds(values: Sequence[float | None], form: str, unit: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):{form}}{unit}"
    return mean if len(known) == 1 else f"{mean} ({min(known):{form}} to {max(known):{form}})"


def _decibels(values: Sequence[float | None]) -> str:
    return _over_seeds(values, ".1f", " dB")


def _percent(values: Sequence[float | None]) -> str:
    return _over_seeds([None if value is None else 100 * value for value in values], ".0f", "%")


def _seconds(values: Sequence[float | None]) -> str:
    return _over_seeds(values, ".2f", " s")


def _plain(values: Sequence[float | None]) -> str:
    return _over_seeds(values, ".1f", "")
