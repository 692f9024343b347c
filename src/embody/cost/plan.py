"""A config's costs as tables: parameters, memory of a GPU, FLOPs, and days for a number of frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from embody.config import Config, StageConfig
from embody.cost.flops import (
    agent_row_flops,
    decode_flops,
    dynamics_row_flops,
    generated_frame_flops,
    imagination_row_flops,
    tokenizer_row_flops,
)
from embody.cost.memory import (
    Resident,
    agent_activations,
    resident,
    ring_bytes,
    tokenizer_activations,
    trunk_activations,
)
from embody.cost.parameters import (
    agent_parameters,
    block_matrices,
    dynamics_parameters,
    event_layers,
    head_layers,
    risk_layers,
    tokenizer_parameters,
)
from embody.errors import UserError

__all__ = ["Phase", "phases", "plan"]


@dataclass(frozen=True)
class Phase:
    """One training phase; the functions take the frames of a row."""

    name: str
    stage: StageConfig
    state: Resident
    copies: int  # bytes of the 16-bit weights that autocast makes and keeps for the backward pass
    row_bytes: Callable[[int], float]  # activations, or the caches of a dream
    row_flops: Callable[[int], float]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and frames of the short batch, and of the long one if there is one."""
        stage, long = self.stage, self.stage.long_length
        more = [(max(1, stage.batch * stage.length // long), long)] if long else []
        return [(stage.batch, stage.length), *more]

    def frame_flops(self) -> float:
        """The mean over short and long batches."""
        short, long = (self.row_flops(frames) / frames for _, frames in (self.shapes[0], self.shapes[-1]))
        return short + (long - short) / self.stage.long_every


def phases(config: Config) -> list[Phase]:
    """The phases of tokenizer, dynamics, agent and imagination; the frames of imagination are the dreamt ones."""
    p = 4 if config.precision == "float32" else 2
    t, d, a = config.tokenizer, config.dynamics, config.agent
    frame, actions, objective = config.env.frame, config.env.actions, config.agent_objective
    S, blocks = 2 + d.registers + d.tokens, d.trunk.depth * block_matrices(d.trunk)
    halves = sum(half.depth * block_matrices(half) for half in (t.encoder, t.decoder))
    tokenizer, world = tokenizer_parameters(t, frame), dynamics_parameters(d, actions)
    agent = agent_parameters(a, d.trunk, actions)
    heads = {name: sum(i * o + o for i, o in layers) for name, layers in head_layers(a, d.trunk, actions).items()}
    layers = (*event_layers(d, a), *risk_layers(d, a, actions))
    outcome_models = sum(i * o + o for part in layers for i, o in part)
    cloned = heads["policy"] if config.sampling.support else 0  # in imagination
    world_learns = objective.dynamics_weight > 0 or not a.own_weights
    # The dynamics loss's rows, and all rows once more where the heads' pass through the world has a gradient.
    world_rows = (objective.uniform_share if objective.dynamics_weight > 0 else 0.0) + (not a.own_weights)

    def dynamics_flops(frames: int) -> float:
        before, after = (
            dynamics_row_flops(d, config.dynamics_objective, frames, bootstrap=bootstrap) for bootstrap in (False, True)
        )
        start = config.dynamics_objective.bootstrap_start
        return start * before + (1 - start) * after

    def world_bytes(frames: int) -> int:
        return trunk_activations(d.trunk, frames * S, p, config.recompute)

    def agent_bytes(frames: int) -> float:
        return agent_activations(a, d.trunk, S, frames, p, config.recompute) + world_rows * world_bytes(frames)

    whole = config.imagination.context + config.imagination.horizon
    finetuned = config.imagination.finetune == "agent"  # and the world with it where they share layers
    dream_learns, dream_matrices = heads["policy"] + heads["value"], 0
    if finetuned:
        dream_learns += agent - sum(heads.values()) + world * (not a.own_weights)
        dream_matrices = blocks

    def dream_bytes(_: int) -> float:
        ring = ring_bytes(d.trunk, S + a.tokens, min(whole, d.context), p)
        if not finetuned:
            return ring
        # The dream is over before the agent looks at it anew.
        world_again = 0 if a.own_weights else world_bytes(whole)
        return max(ring, agent_activations(a, d.trunk, S, whole, p, config.recompute) + world_again)

    def copies(matrices: int) -> int:
        return 2 * matrices if p == 2 else 0

    return [
        Phase(
            "tokenizer",
            config.train_tokenizer,
            resident(config.train_tokenizer, held=tokenizer, trained=tokenizer, matrices=halves),
            copies(halves),
            row_bytes=lambda frames: tokenizer_activations(
                t, config.tokenizer_objective, frame, frames, p, config.recompute
            ),
            row_flops=lambda frames: tokenizer_row_flops(t, config.tokenizer_objective, frame, frames),
        ),
        Phase(
            "dynamics",
            config.train_dynamics,
            resident(config.train_dynamics, held=world, trained=world, matrices=blocks),
            copies(blocks),
            row_bytes=world_bytes,
            row_flops=dynamics_flops,
        ),
        Phase(
            "agent",
            config.train_agent,
            resident(
                config.train_agent,
                held=world + agent + outcome_models,
                trained=agent + world * world_learns,
                matrices=blocks * (a.own_weights + world_learns),
            ),
            copies(blocks * (1 + a.own_weights)),
            row_bytes=agent_bytes,
            row_flops=lambda frames: agent_row_flops(config, frames),
        ),
        Phase(
            "imagination",
            replace(config.train_imagination, length=config.imagination.horizon, long_length=0),
            resident(
                config.train_imagination,
                held=world + agent + outcome_models + cloned,
                trained=dream_learns,
                matrices=dream_matrices,
                prior=dream_learns,
            ),
            copies(blocks * (1 + a.own_weights)),
            row_bytes=dream_bytes,
            row_flops=lambda _: imagination_row_flops(config),
        ),
    ]


def plan(config: Config, *, gpus: int, frames: float, mfu: float, peak_tflops: float) -> str:
    """The tables for `gpus` GPUs of `peak_tflops` TFLOP/s each at utilisation `mfu`, above 0, at most 1.

    Each phase trains on `frames` frames. Raises a `UserError` if a batch does not split evenly over the GPUs or a
    number is out of its range.
    """
    for name, value in (("gpus", gpus), ("frames", frames), ("mfu", mfu), ("peak-tflops", peak_tflops)):
        if value <= 0:
            raise UserError(f"--{name} must be above 0, got {value:g}")
    if mfu > 1:
        raise UserError(f"--mfu is a share of the peak, at most 1, got {mfu:g}")
    trained = phases(config)
    for phase in trained:
        for rows, length in phase.shapes:
            if rows % gpus:
                raise UserError(
                    f"train_{phase.name}: {rows} rows of {length} frames do not split over {gpus} GPUs:"
                    " change --gpus, or the stage's batch"
                )
    return "\n\n".join(
        (
            _table(f"{config.name}: parameters", ["millions"], _parameter_rows(config)),
            _table(
                f"memory a GPU of {gpus}, GiB (without workspaces; float32 weights,"
                f" {'bfloat16' if config.precision == 'auto' else config.precision} products)",
                [phase.name for phase in trained],
                _memory_rows(trained, gpus),
            ),
            _table("a step of all GPUs, PFLOP", ["short", "long"], _step_rows(config, trained)),
            _table(
                f"a generated frame, TFLOP (K = {config.sampling.k_sample}, {config.dynamics.context} frames cached)",
                ["TFLOP"],
                _generation_rows(config),
            ),
            _table(
                f"{frames:.3g} frames a phase on {gpus} GPUs of {peak_tflops:g} TFLOP/s at {mfu:.0%} MFU",
                ["TFLOP a frame", "days"],
                [
                    (phase.name, [phase.frame_flops() / 1e12, _days(phase, gpus, frames, mfu, peak_tflops)])
                    for phase in trained
                ],
            ),
        )
    )


def _days(phase: Phase, gpus: int, frames: float, mfu: float, peak_tflops: float) -> float:
    """`frames * FLOPs a frame / (gpus * peak * mfu)`, in days."""
    return frames * phase.frame_flops() / (gpus * peak_tflops * 1e12 * mfu) / 86_400


_Rows = list[tuple[str, list[float]]]


def _parameter_rows(config: Config) -> _Rows:
    shared = "with its own layers" if config.agent.own_weights else "on the world's layers"
    return [
        ("tokenizer", [tokenizer_parameters(config.tokenizer, config.env.frame) / 1e6]),
        ("dynamics", [dynamics_parameters(config.dynamics, config.env.actions) / 1e6]),
        (f"agent, {shared}", [agent_parameters(config.agent, config.dynamics.trunk, config.env.actions) / 1e6]),
    ]


def _memory_rows(trained: Sequence[Phase], gpus: int) -> _Rows:
    def row(name: str, of: Callable[[Phase], float]) -> tuple[str, list[float]]:
        return name, [of(phase) / 2**30 for phase in trained]

    def kept(phase: Phase, place: int) -> float:
        rows, frames = phase.shapes[place]
        return rows // gpus * phase.row_bytes(frames)

    def total(phase: Phase, shards: int) -> float:
        return phase.state.total / shards + phase.copies + kept(phase, -1)

    return [
        row("weights", lambda phase: phase.state.weights),
        row("gradients", lambda phase: phase.state.gradients),
        row("optimiser state", lambda phase: phase.state.optimiser),
        row("EMA", lambda phase: phase.state.average),
        row("16-bit copies of weights", lambda phase: phase.copies),
        row("activations or caches, short batch", lambda phase: kept(phase, 0)),
        row("activations or caches, long batch", lambda phase: kept(phase, -1)),
        row("all, nothing sharded", lambda phase: total(phase, 1)),
        row(f"all, the first four sharded over {gpus}", lambda phase: total(phase, gpus)),
    ]


def _step_rows(config: Config, trained: Sequence[Phase]) -> _Rows:
    rows: _Rows = []
    for phase in trained:
        if phase.name == "dynamics":
            for name, bootstrap in (("without", False), ("with", True)):
                costs = [
                    n * dynamics_row_flops(config.dynamics, config.dynamics_objective, T, bootstrap=bootstrap)
                    for n, T in phase.shapes
                ]
                rows.append((f"dynamics, {name} bootstrap", [cost / 1e15 for cost in costs]))
        else:
            shape = (
                f", {phase.shapes[0][0]} dreams of {phase.shapes[0][1]} frames" if phase.name == "imagination" else ""
            )
            rows.append((phase.name + shape, [n * phase.row_flops(T) / 1e15 for n, T in phase.shapes]))
    return rows


def _generation_rows(config: Config) -> _Rows:
    world, both = (generated_frame_flops(config, agent=agent) / 1e12 for agent in (False, True))
    pixels = decode_flops(config.tokenizer, config.env.frame, 1, config.tokenizer.context) / 1e12
    return [("world, K + 1 passes", [world]), ("agent and policy", [both - world]), ("decoding to pixels", [pixels])]


def _table(title: str, columns: Sequence[str], rows: _Rows) -> str:
    width = max(len(name) for name, _ in rows)
    lines = [title, "  ".join([" " * (width + 2), *(f"{column:>13}" for column in columns)])]
    lines += ["  ".join([f"  {name:<{width}}", *(f"{value:>13,.4g}" for value in values)]) for name, values in rows]
    return "\n".join(line.rstrip() for line in lines)
