"""The ablation of the paper's cascade: what each part of the dynamics adds, measured on the latents of a run.

Each row adds one part to the row above it. It is trained from scratch, with the same number of steps and frames as the
other rows, and then dreams the same held-out clips. Everything that the paper's cascade does not vary is the run's
config: model size, learning rates, held contexts, the distribution of tau, the schedule of the bootstrap loss.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from embody.config import Config, DynamicsObjective, StageConfig, digest, to_dict
from embody.data import BatchShapes, Dataset, recorded_actions, write_json, write_text
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.evaluation.held_out import dream_held_out
from embody.games import game
from embody.imagination import Dream
from embody.logger_manager import LoggerManager
from embody.metrics.rollouts import NEAR, FrameMeasures, measure
from embody.nn.noise import GeneratorNoise
from embody.saving.json_files import read_object
from embody.tokenizer import Tokenizer
from embody.training.dynamics import DynamicsStage
from embody.training.loop import train

__all__ = ["Row", "ablate", "cascade", "frames_per_second"]

_TIMED = 15  # frames that are timed; their median counts

Results = dict[str, dict[str, dict[str, float | None]]]  # results[row][seed][measure]


@dataclass(frozen=True)
class Row:
    """One line of the cascade."""

    name: str
    config: Config  # the run's, with the row's dynamics, dynamics objective, training and sampling
    paper: tuple[str, str, str]  # seconds a step, frames a second, FVD; "" where the paper gives none

    @property
    def training(self) -> str:
        """A digest of the training settings. Rows that differ only in sampling share it, and are trained once."""
        config = self.config
        return digest([to_dict(part) for part in (config.dynamics, config.dynamics_objective, config.train_dynamics)])


def cascade(config: Config) -> list[Row]:
    """The rows, from diffusion forcing to the full dynamics of `config` with the ramp weight.

    Rows before "+ alternating lengths" train on long clips only. Batches of all rows hold the same number of frames.
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
    made_by: Mapping[str, str],
) -> Path:
    """Train and measure each row for `steps` steps with each of `seeds` seeds; returns the path of `cascade.md`.

    The seeds count up from `config.seed`. `ablation.json` keeps the finished rows, so an interrupted call resumes.
    `made_by` (command, machine, date) is printed above the table. A `UserError` if `ablation.json` was made with other
    settings, or no dataset has actions.
    """
    if steps < 1 or seeds < 1:
        raise UserError(f"ablate: steps ({steps}) and seeds ({seeds}) must be at least 1")
    if recorded_actions(datasets) is None:
        raise UserError("ablate: all datasets are plain videos without actions: add recordings with actions")
    rows, table = cascade(config), config.run_dir / "cascade.md"
    finished = _FinishedRows(config.run_dir / "ablation.json", _settings(config, rows, tokenizer_hash, datasets, steps))
    of_game, frame_measures = game(config.env.game).evaluation().frame_measures, None
    for seed in range(config.seed, config.seed + seeds):
        for training in dict.fromkeys(row.training for row in rows):
            served = [row for row in rows if row.training == training]
            if all(finished.has(row, seed) for row in served):
                continue
            if of_game is not None and frame_measures is None:
                frame_measures = of_game(datasets)
            device = tokenizer.masked_D.device
            trained, seconds = _train(config, served[0], seed, steps, datasets, tokenizer_hash, logger, device)
            for row in served:
                dynamics = _with_weights_of(trained, row)
                found = _measure(row.config, dynamics, tokenizer, tokenizer_hash, datasets, frame_measures)
                finished.add(row, seed, found | {"step_seconds": seconds}, made_by)
                logger.info(f"{row.name}, seed {seed}: gain over copy {_decibels([found['gain_over_copy_db']])}")
            _write_table(table, rows, finished)
    _write_table(table, rows, finished)
    return table


class _FinishedRows:
    """The results of the rows that are finished, in `ablation.json`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.made_by: Mapping[str, str] = {}
        self.results: Results = {}
        if not path.exists():
            return
        found = read_object(path, "delete it")
        try:
            self.made_by, self.results, stored = found["made"], found["results"], found["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it") from error
        if stored != settings:
            different = next((name for name in settings if stored.get(name) != settings[name]), "version")
            raise UserError(
                f"{path} was made with other settings ({different} differs): delete it, or use another --name"
            )

    def has(self, row: Row, seed: int) -> bool:
        return str(seed) in self.results.get(row.name, {})

    def add(self, row: Row, seed: int, found: Mapping[str, float | None], made_by: Mapping[str, str]) -> None:
        self.results.setdefault(row.name, {})[str(seed)] = dict(found)
        self.made_by = dict(made_by)
        write_json(self.path, {"settings": self.settings, "made": self.made_by, "results": self.results})

    def values(self, row: Row, name: str) -> list[float | None]:
        return [found[name] for found in self.results.get(row.name, {}).values()]


def _settings(
    config: Config, rows: Sequence[Row], tokenizer_hash: str, datasets: Sequence[Dataset], steps: int
) -> dict[str, Any]:
    """Everything that the results depend on, apart from the seed of each row."""
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
    """Train the dynamics of `row`; returns it and the mean seconds of a step."""
    # No checkpoints in between: an interrupted row starts again, so that all its steps are timed together.
    of_row = replace(row.config.train_dynamics, steps=steps, checkpoint_every=steps)
    row_config = replace(row.config, seed=seed, train_dynamics=of_row)
    stage = DynamicsStage(row_config, datasets, tokenizer_hash, name=f"{row.name}, seed {seed}")
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
    """`trained` with the config of `row`. If only d_min was trained, all step sizes get the embedding of d_min."""
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
    """Latent frames per second of one rollout with a full context and given actions: K passes a frame, no decoding."""
    config, device = dynamics.config, dynamics.register_RD.device
    noise = GeneratorNoise(torch.Generator(device).manual_seed(0))
    dream = Dream(dynamics, k_sample=k_sample, noise=noise)
    z = noise.normal(1, config.context, config.tokens, config.channels)
    actions = torch.zeros(1, config.context, len(dynamics.actions.sizes), dtype=torch.long, device=device)
    dream.reset(z, actions, torch.zeros(1, config.context, dtype=torch.bool, device=device))
    dream.advance(actions[:, 0])  # the first call has no earlier frame to write to the cache, and so is faster
    seconds = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        float(dream.advance(actions[:, 0])[0].sum())  # float() waits for the GPU
        seconds.append(time.perf_counter() - start)
    return 1 / statistics.median(seconds)


# --- the table ------------------------------------------------------------------------------------------------------


def _write_table(path: Path, rows: Sequence[Row], finished: _FinishedRows) -> None:
    """Write the table: of each measure the mean over seeds and, with several seeds, its range."""
    shown = {
        f"PSNR at h {NEAR}": ("psnr_db", _decibels),
        f"gain over copy, h 1-{NEAR}": ("gain_over_copy_db", _decibels),
        **{title: (name, _percent) for name, title in game(rows[0].config.env.game).evaluation().ablation.items()},
        "step": ("step_seconds", _seconds),
        "frames/s": ("frames_per_second", _number),
    }
    header = ["row", *shown, "paper: step", "paper: frames/s", "paper: FVD"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        ours = [show(finished.values(row, name)) for name, show in shown.values()]
        seconds, *others = row.paper
        lines.append([row.name, *ours, seconds and f"{seconds} s", *others])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_text(path, "\n\n".join(["# The paper's cascade", *_description(rows, finished), table]) + "\n")


def _description(rows: Sequence[Row], finished: _FinishedRows) -> list[str]:
    model, objective, settings = rows[-1].config.dynamics, rows[-1].config.dynamics_objective, finished.settings
    made_by = finished.made_by
    shapes = [_shapes(row.config.train_dynamics) for row in (rows[0], rows[-1])]
    counts = sorted({len(finished.results.get(row.name, {})) for row in rows})
    copied = next((value for value in finished.values(rows[0], "copy_psnr_db")), None)
    clips = next((value for value in finished.values(rows[0], "rollouts")), None)
    return [
        f"Made by `{made_by.get('command')}` on {made_by.get('date')}. Machine: {made_by.get('machine')}."
        f" Each row is trained from scratch for {settings['steps']} optimiser steps with"
        f" {' to '.join(map(str, counts))} seeds. Cells: mean over seeds (minimum to maximum).",
        f"All rows: width {model.trunk.width}, depth {model.trunk.depth}, contexts {objective.contexts},"
        f" tau = u^{objective.tau_power:g}, {objective.image_fraction:.0%} separate images. Bootstrap loss, in the rows"
        f" that have it: {_bootstrap(objective)}. Batches (frames x rows): {shapes[0]}; from"
        f" `+ alternating lengths` on: {shapes[1]}.",
        f"Closed loop: {settings['evaluation']['context']} real frames, then a dream under the recorded actions."
        f" {clips} held-out clips reach horizon {NEAR}; there a copy of the last context frame has"
        f" {_decibels([copied])}. Frames/s: median for one rollout with a full context, latents only. The paper's"
        " columns are for Minecraft with 2B parameters on one H100 (FVD: lower is better; empty: not stated): compare"
        " directions, not sizes. Before registers the paper adds a factorised long context (0.4 s, 30.1 frames/s,"
        " FVD 91), which this table lacks.",
    ]


def _bootstrap(objective: DynamicsObjective) -> str:
    where = (
        f"on {objective.bootstrap_fraction:.0%} of the rows"
        if objective.step_draw == "partial"
        else "with d drawn uniformly"
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


def _number(values: Sequence[float | None]) -> str:
    return _over_seeds(values, ".1f", "")
