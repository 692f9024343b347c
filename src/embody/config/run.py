"""One run: its environment and data, how long each stage trains, what is measured, and where files go."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embody.config.architecture import ActionSpec, AgentConfig, DynamicsConfig, TokenizerConfig
from embody.config.bounds import Count, Natural, NotNegative, Positive, Share, check_bounds
from embody.config.names import check_name
from embody.config.objective import AgentObjective, DynamicsObjective, ImaginationConfig, TokenizerObjective
from embody.config.sampling import SamplingConfig
from embody.errors import UserError

__all__ = [
    "CollectConfig",
    "Config",
    "DataConfig",
    "EnvConfig",
    "EvaluationConfig",
    "Schedule",
    "StageConfig",
]

_WEIGHTS = ".safetensors"  # the suffix of a file of weights


@dataclass(frozen=True)
class EnvConfig:
    """The real environment and its tasks."""

    game: str = "none"
    """The environment is this game of `embody.games`; none means that there are only recordings and nothing is
    played."""
    tasks: tuple[str, ...] = ()
    """These are the names of the tasks; each has a dataset of the same name."""
    max_steps: tuple[Count, ...] = ()
    """An episode of each task is truncated after this many steps, at least 1; one limit for each task."""
    height: Count = 48
    """Frames have this height in pixels, at least 1."""
    width: Count = 48
    """Frames have this width in pixels, at least 1."""
    fps: Count = 5
    """Recordings are played back at this many frames a second, at least 1; training does not use it."""
    actions: ActionSpec = ActionSpec((2,))
    """The factors of an action; a preset has its game's."""

    def __post_init__(self) -> None:
        if len(self.tasks) != len(self.max_steps):
            raise UserError(f"env.max_steps: one limit per task ({len(self.tasks)}), got {len(self.max_steps)}")

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class DataConfig:
    """The datasets that a run reads, and how they are mixed."""

    sources: tuple[str, ...] = ()
    """Datasets are read from these folders, inside data_dir unless absolute; by default one for each of env.tasks."""
    weights: tuple[Positive, ...] = ()
    """The share of the rows that come from a source is proportional to its weight, above 0; by default all tasks have
    equal shares."""


@dataclass(frozen=True)
class CollectConfig:
    """What `embody collect` records of each task."""

    train_episodes: Count = 1000
    """The training split of each task has this many episodes, at least 1."""
    validation_episodes: Count = 64
    """The validation split of each task has this many episodes, at least 1."""
    noise_levels: tuple[Share, ...] = (0.0, 0.25, 0.5)
    """Each episode of the expert draws one of these shares of random actions, from 0 to 1."""
    random_fraction: Share = 0.1
    """This share of the episodes is played at random, from 0 to 1."""
    unlabelled_fraction: Share = 0.0
    """This share of the episodes is kept as plain video without actions, from 0 to 1."""
    off_task_fraction: Share = 0.0
    """This share of the expert's episodes pursues another goal than the task's, from 0 to 1: another mission of the
    room (MiniGrid), or random achievements (Crafter)."""
    workers: Natural = 0
    """This many processes play side by side, at least 0; 0 means one a core."""
    seed: Natural = 0
    """Environment seeds, also those of the evaluation, are derived from this number, at least 0. Runs that differ only
    in the training seed (--seed) share recordings and evaluation episodes."""


@dataclass(frozen=True)
class StageConfig:
    """One training stage. An epoch has as many frames as the training split."""

    epochs: Positive = 1.0
    """The stage trains for this many epochs, above 0, unless steps is set."""
    steps: Natural = 0
    """The stage trains for this many optimiser steps, at least 0; 0 means the steps of its epochs."""
    batch: Count = 16
    """A batch has this many rows, at least 1; a long batch has as many frames as a short one."""
    length: Count = 16
    """A row has this many frames, at least 1."""
    long_length: Natural = 0
    """A row of a long batch has this many frames, at least 0; 0 means that no batch is long [P: alternating
    lengths]."""
    long_every: Count = 4
    """One batch in this many is long, at least 1."""
    lr: NotNegative = 1e-3
    """AdamW has this learning rate, at least 0."""
    muon_lr: NotNegative = 0.0
    """Muon has this learning rate for the matrices of the transformer layers, at least 0; 0 means AdamW for them
    too."""
    final_lr: Share = 0.05
    """The learning rate decays linearly to this share of its full value, from 0 to 1."""
    warmup: Share = 0.02
    """The learning rate rises during this first share of the steps, from 0 to 1."""
    decay: Share = 0.4
    """The learning rate decays during this last share of the steps, from 0 to 1."""
    weight_decay: NotNegative = 0.01
    """Each step shrinks weights by the learning rate times this number, at least 0."""
    clip: Positive = 1.0
    """Gradients are scaled down to this joint norm, above 0."""
    ema: Share = 0.995
    """The moving average of the weights keeps this share of itself a step, from 0 to 1; the stage saves the average."""
    init_from: str = ""
    """The stage begins with the weights of this run, or of this file (.safetensors), instead of random weights."""
    checkpoint_every: Count = 100
    """A checkpoint is saved every so many steps, at least 1."""
    log_every: Count = 10
    """Metrics are logged every so many steps, at least 1."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What the evaluation plays and measures."""

    episodes: Count = 100
    """Each policy plays this many episodes of each task, at least 1."""
    full: bool = False
    """If true, the evaluation plays full_episodes episodes of each task and also measures the controls
    best_demonstrations, no_world_model and shuffled_rewards."""
    full_episodes: Count = 200
    """In a full evaluation each policy plays this many episodes of each task, at least 1."""
    batch: Count = 100
    """This many environments are played side by side, at least 1."""
    rollouts: Count = 256
    """The world model is measured in closed loop on this many held-out clips, at least 1."""
    context: Count = 10
    """A measured rollout starts from this many recorded frames, at least 1."""
    horizon: Count = 16
    """A measured rollout has this many imagined frames, at least 1."""


@dataclass(frozen=True)
class Schedule:
    """The order in which the agent pursues tasks during an episode of the evaluation; a game with such settings has its
    own subclass."""


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    name: str = "minigrid"
    """The run has this name, and so have its folders in models_dir, runs_dir and logs_dir."""
    preset: str = "minigrid"
    """The run started from this preset."""
    seed: Natural = 0
    """Initial weights, batches and noise are drawn from this seed, at least 0."""
    world: str = ""
    """The tokenizer and the dynamics are those of the run with this name; this run then begins with the agent."""
    data_dir: str = "data"
    """Datasets are in this folder."""
    models_dir: str = "models"
    """Finished weights are saved in this folder."""
    runs_dir: str = "runs"
    """Results, reports and checkpoints are saved in this folder."""
    logs_dir: str = "logs"
    """TensorBoard logs are saved in this folder."""
    cache_dir: str = "~/.cache/embody"
    """Downloaded weights (`embody weights`) are in this folder, which all runs share."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Training and evaluation use this device; auto means a GPU if torch finds one."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Matrix products have this number format; auto means bfloat16 where it is measured to be faster, and on a GPU
    without bfloat16 units float16 or float32."""
    workers: Natural = 0
    """This many processes load batches, at least 0; 0 means a thread that loads one batch ahead."""
    recompute: bool = False
    """If true, training keeps only the inputs of layers and recomputes the rest: less memory, about a third more
    computation."""
    compile: bool = False
    """If true, layers and the steps of training dreams are compiled; the first steps of a stage then take a minute or
    more."""
    env: EnvConfig = EnvConfig()
    """The environment and its tasks."""
    data: DataConfig = DataConfig()
    """The datasets."""
    collect: CollectConfig = CollectConfig()
    """What is recorded."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer's architecture."""
    dynamics: DynamicsConfig = DynamicsConfig()
    """The dynamics' architecture."""
    agent: AgentConfig = AgentConfig()
    """The agent's architecture."""
    tokenizer_objective: TokenizerObjective = TokenizerObjective()
    """The tokenizer's loss."""
    dynamics_objective: DynamicsObjective = DynamicsObjective()
    """The dynamics' loss."""
    agent_objective: AgentObjective = AgentObjective()
    """The agent's losses."""
    imagination: ImaginationConfig = ImaginationConfig()
    """Dreams and their loss."""
    sampling: SamplingConfig = SamplingConfig()
    """How frames and actions are sampled."""
    train_tokenizer: StageConfig = StageConfig()
    """The tokenizer's training (phase 1a)."""
    train_dynamics: StageConfig = StageConfig()
    """The dynamics' training (phase 1b)."""
    train_agent: StageConfig = StageConfig()
    """The agent's training (phase 2)."""
    train_imagination: StageConfig = StageConfig()
    """The training in dreams (phase 3)."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The evaluation."""
    schedule: Schedule = Schedule()
    """The order in which the agent pursues tasks during an episode; each game has its own kind of schedule."""

    def __post_init__(self) -> None:
        check_bounds(self)
        self._check_names()
        t, d, a = self.tokenizer, self.dynamics, self.agent
        t.encoder.check("tokenizer.encoder")
        t.decoder.check("tokenizer.decoder")
        d.trunk.check("dynamics.trunk")
        if t.latents * t.channels != d.tokens * d.channels:
            raise UserError(
                f"tokenizer latents {t.latents}x{t.channels} and dynamics tokens {d.tokens}x{d.channels}"
                " must hold equally many numbers: set dynamics.tokens and dynamics.channels"
            )
        for side, padded in zip(self.env.frame, t.padded, strict=True):
            if padded and (padded < side or padded % t.patch):
                raise UserError(
                    f"tokenizer.padded {padded} must be 0, or a multiple of tokenizer.patch {t.patch} that is at least"
                    f" the frame's {side} pixels"
                )
        if self.tokenizer_objective.lpips != "none" and min(self.env.frame) < 32:
            raise UserError(
                f"tokenizer_objective.lpips {self.tokenizer_objective.lpips} needs frames of 32x32 or more, not"
                f" {self.env.height}x{self.env.width}: set lpips to none"
            )
        if d.k_max > 1 and round(d.context_tau * d.k_max) == d.k_max:
            raise UserError(
                f"dynamics.context_tau {d.context_tau:g} rounds to 1 on the grid of dynamics.k_max {d.k_max}, and"
                f" signal level 1 is never trained: lower context_tau to {1 - 1 / d.k_max:g} or less, or raise k_max"
            )
        if self.sampling.k_sample > d.k_max:
            raise UserError(f"sampling.k_sample {self.sampling.k_sample} exceeds dynamics.k_max {d.k_max}: lower it")
        sources, weights = self.data.sources or self.env.tasks, self.data.weights
        if weights and len(weights) != len(sources):
            raise UserError(f"data.weights must have one number for each of {len(sources)} sources, got {len(weights)}")
        if not self.collect.noise_levels:
            raise UserError("collect.noise_levels is empty: name at least one, such as 0.0")
        if self.dynamics_objective.contexts == "alternate" and self.train_dynamics.length < 2:
            raise UserError(
                "dynamics_objective.contexts alternate predicts every second frame of a row: set train_dynamics.length"
                " to 2 or more"
            )
        if self.agent_objective.once and a.goal != "one":
            raise UserError(
                f"agent_objective.once ends an episode with its task's first event, and agent.goal {a.goal} has many"
                " tasks: set once to false"
            )
        if self.agent_objective.standardise_rewards and a.goal != "one":
            raise UserError(
                f"with agent.goal {a.goal} dreams pay 1 for an achievement, so rewards cannot be standardised: set"
                " agent_objective.standardise_rewards to false"
            )
        if self.train_imagination.checkpoint_every % self.imagination.updates:
            raise UserError(
                f"train_imagination.checkpoint_every {self.train_imagination.checkpoint_every} must be a multiple of"
                f" imagination.updates {self.imagination.updates}, since unfinished dreams are not saved"
            )
        if self.sampling.support and self.imagination.finetune == "agent":
            raise UserError(
                "sampling.support needs features that the cloned policy was trained on, and imagination.finetune agent"
                " changes the features: set one of the two to its default"
            )
        for name, context in (("imagination", self.imagination.context), ("evaluation", self.evaluation.context)):
            if context > d.context:
                raise UserError(f"{name}.context {context} exceeds dynamics.context {d.context}: lower it")
        for name in ("train_tokenizer", "train_dynamics", "train_agent"):
            stage = getattr(self, name)
            if 0 < stage.long_length < stage.length:
                raise UserError(
                    f"{name}.long_length {stage.long_length} is shorter than {name}.length {stage.length}: raise it,"
                    " or set it to 0"
                )
        frames = self.imagination.context + self.imagination.horizon
        if self.imagination.finetune == "agent" and frames > d.context:
            raise UserError(
                f"imagination.finetune agent reads {frames} frames at once (imagination.context + imagination.horizon),"
                f" more than dynamics.context {d.context}: shorten the dreams, or set finetune to heads"
            )

    def _check_names(self) -> None:
        check_name("name", self.name)
        if self.world:
            check_name("world", self.world)
        if self.world == self.name:
            raise UserError(f"world {self.world} is the run itself: name another run, or leave it out")
        for task in () if self.data.sources else self.env.tasks:
            check_name("env.tasks", task)
        if "" in self.data.sources:
            raise UserError("data.sources has an empty name: name the folder of a dataset")
        for phase in ("tokenizer", "dynamics", "agent", "imagination"):
            source = getattr(self, f"train_{phase}").init_from
            if source and not source.endswith(_WEIGHTS):
                check_name(f"train_{phase}.init_from", source)

    def with_actions(self, actions: ActionSpec) -> "Config":
        """This config with other actions."""
        return dataclasses.replace(self, env=dataclasses.replace(self.env, actions=actions))

    @property
    def run_dir(self) -> Path:
        """The folder of this run's results, report and checkpoints."""
        return Path(self.runs_dir) / self.name

    def dataset_dir(self, task: str) -> Path:
        """The folder of a task's dataset."""
        return Path(self.data_dir) / task

    def weights(self, stage: str) -> Path:
        """The file of a stage's finished weights."""
        run = self.world if self.world and stage in ("tokenizer", "dynamics") else self.name
        return Path(self.models_dir) / run / f"{stage}{_WEIGHTS}"

    def lpips_weights(self, net: str) -> Path:
        """The file of an LPIPS network's weights, shared by all runs."""
        return Path(self.cache_dir).expanduser() / f"lpips-{net}.safetensors"

    def checkpoint(self, stage: str) -> Path:
        """The file of an unfinished stage's checkpoint."""
        return self.run_dir / "checkpoints" / f"{stage}.safetensors"

    def finished_state(self, stage: str) -> Path:
        """The file of a finished stage's last checkpoint, from which the stage can be trained further."""
        return self.run_dir / "checkpoints" / f"{stage}.finished.safetensors"

    def initial_weights(self, phase: str) -> Path | None:
        """The file of the weights that a phase's stages begin with; None means random weights."""
        source: str = getattr(self, f"train_{phase}").init_from
        if not source:
            return None
        is_file = source.endswith(_WEIGHTS)
        return Path(source) if is_file else Path(self.models_dir) / source / f"{phase}{_WEIGHTS}"
