"""One run: its environment and data, how long and on what each stage trains, what is measured, and where files go."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embody.config.architecture import ActionSpec, AgentConfig, DynamicsConfig, TokenizerConfig
from embody.config.bounds import Count, Natural, NotNegative, Positive, Share, check_bounds
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


@dataclass(frozen=True)
class EnvConfig:
    """The real environment and the tasks in it."""

    game: str = "none"  # one of `embody.games`, or none: data that nobody plays
    tasks: tuple[str, ...] = ()
    max_steps: tuple[Count, ...] = ()  # a limit per task; reaching it truncates, which no frame shows
    height: Count = 48
    width: Count = 48
    fps: Count = 5  # only for playing recordings back
    actions: ActionSpec = ActionSpec((2,))  # a preset has its game's; this stands for data without any

    def __post_init__(self) -> None:
        if len(self.tasks) != len(self.max_steps):
            raise UserError(f"env.max_steps: one limit per task ({len(self.tasks)}), got {len(self.max_steps)}")

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class DataConfig:
    """Which datasets a run reads, and how they are mixed."""

    sources: tuple[str, ...] = ()  # folders, in data_dir unless absolute; none: one of the name of each env.tasks
    weights: tuple[Positive, ...] = ()  # of each source: its share of the rows is weight / sum; none: tasks alike


@dataclass(frozen=True)
class CollectConfig:
    """What is recorded, for each task."""

    train_episodes: Count = 1000
    validation_episodes: Count = 64
    noise_levels: tuple[Share, ...] = (0.0, 0.25, 0.5)  # how often a random action replaces the expert's
    random_fraction: Share = 0.1  # share of episodes played at random (noise 1)
    unlabelled_fraction: Share = 0.0  # share of episodes, of whatever quality, that are left plain videos
    # Share of the expert's episodes, 0 to 1, that pursue another goal than the task's: another mission of the room
    # (MiniGrid), or random achievements (Crafter).
    off_task_fraction: Share = 0.0
    workers: Natural = 0  # processes that play; 0: one a core
    seed: Natural = 0  # of the environments, those of the evaluation included: runs of other seeds share data and tests


@dataclass(frozen=True)
class StageConfig:
    """One training stage. An epoch is as many frames as the training split holds."""

    epochs: Positive = 1.0
    steps: Natural = 0  # of the optimiser; 0: as many as the epochs come to
    batch: Count = 16  # rows of a short batch; long batches hold the same number of frames
    length: Count = 16  # frames a row
    long_length: Natural = 0  # frames a row of a long batch [P: T2]; 0: all batches are short
    long_every: Count = 4  # every n-th batch is long
    lr: NotNegative = 1e-3  # AdamW
    muon_lr: NotNegative = 0.0  # Muon for the matrices of the transformer blocks; 0: AdamW for them too
    final_lr: Share = 0.05  # of lr, reached by linear decay
    warmup: Share = 0.02  # share of the steps
    decay: Share = 0.4  # share of the steps, at the end
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    ema: Share = 0.995
    # A run's name, or the path of a weights file (.safetensors): the stage begins with these weights. Empty: with
    # random ones. What a stage takes from the one before it is the same in both cases.
    init_from: str = ""
    checkpoint_every: Count = 100
    log_every: Count = 10


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on how much."""

    episodes: Count = 100  # a task and a policy
    full: bool = False  # more episodes, the best-demonstrations and shuffled-reward controls
    full_episodes: Count = 200
    batch: Count = 100  # environments played side by side
    rollouts: Count = 256  # held-out clips for the closed-loop world model measures
    context: Count = 10
    horizon: Count = 16


@dataclass(frozen=True)
class Schedule:
    """What an agent is asked for in one episode of an evaluation: a game's own settings, where it has any."""


@dataclass(frozen=True)
class Config:
    """One run, whole."""

    name: str = "minigrid"
    preset: str = "minigrid"  # what it began as
    seed: Natural = 0  # of weights, batches and noise
    world: str = ""  # another run, whose tokenizer and dynamics this one takes: it begins with the agent
    data_dir: str = "data"
    models_dir: str = "models"
    runs_dir: str = "runs"
    logs_dir: str = "logs"
    cache_dir: str = "~/.cache/embody"  # weights that others trained (`embody weights`), shared by all runs
    device: Literal["auto", "cpu", "cuda"] = "auto"  # what trains and is evaluated on; auto: a GPU if torch sees one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: Natural = 0  # loader processes; 0: a thread of the training process loads one batch ahead
    recompute: bool = False  # training keeps only the inputs of blocks and computes the rest anew: less memory, slower
    compile: bool = False  # blocks, and the steps of dreams trained in: a minute or more for the first steps of a stage
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()
    collect: CollectConfig = CollectConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    agent: AgentConfig = AgentConfig()
    tokenizer_objective: TokenizerObjective = TokenizerObjective()
    dynamics_objective: DynamicsObjective = DynamicsObjective()
    agent_objective: AgentObjective = AgentObjective()
    imagination: ImaginationConfig = ImaginationConfig()
    sampling: SamplingConfig = SamplingConfig()
    train_tokenizer: StageConfig = StageConfig()
    train_dynamics: StageConfig = StageConfig()
    train_agent: StageConfig = StageConfig()
    train_imagination: StageConfig = StageConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    schedule: Schedule = Schedule()  # a preset's is of its game's own kind

    def __post_init__(self) -> None:
        check_bounds(self)
        t, d, a = self.tokenizer, self.dynamics, self.agent
        t.encoder.check("tokenizer.encoder")
        t.decoder.check("tokenizer.decoder")
        d.trunk.check("dynamics.trunk")
        if t.latents * t.channels != d.tokens * d.channels:
            raise UserError(
                f"tokenizer latents {t.latents}x{t.channels} and dynamics tokens {d.tokens}x{d.channels}"
                " must hold the same numbers: set dynamics.tokens and dynamics.channels"
            )
        for side, padded in zip(self.env.frame, t.padded, strict=True):
            if padded and (padded < side or padded % t.patch):
                raise UserError(
                    f"tokenizer.padded {padded}: a multiple of patch {t.patch} that holds {side} pixels, or 0"
                )
        if self.tokenizer_objective.lpips != "none" and min(self.env.frame) < 32:
            raise UserError(
                f"tokenizer_objective.lpips {self.tokenizer_objective.lpips} needs frames of 32x32 or more, not"
                f" {self.env.height}x{self.env.width}: set it to none"
            )
        if d.k_max > 1 and round(d.context_tau * d.k_max) == d.k_max:
            raise UserError(
                f"dynamics.context_tau {d.context_tau:g} is 1 on the grid of dynamics.k_max {d.k_max}, a level that is"
                f" never trained: lower it to {1 - 1 / d.k_max:g} or less, or raise k_max"
            )
        if self.sampling.k_sample > d.k_max:
            raise UserError(f"sampling.k_sample {self.sampling.k_sample} exceeds dynamics.k_max {d.k_max}")
        sources, weights = self.data.sources or self.env.tasks, self.data.weights
        if weights and len(weights) != len(sources):
            raise UserError(f"data.weights: one for each of {len(sources)} sources, got {len(weights)}")
        if not self.collect.noise_levels:
            raise UserError("collect.noise_levels is empty: name at least one, such as 0.0")
        if self.dynamics_objective.contexts == "alternate" and self.train_dynamics.length < 2:
            raise UserError(
                "dynamics_objective.contexts alternate predicts every second frame: train_dynamics.length is below 2"
            )
        if self.agent_objective.once and a.goal != "one":
            raise UserError(
                f"agent_objective.once ends a task with its first event, agent.goal {a.goal} has many: set once to"
                " false"
            )
        if self.agent_objective.standardise_rewards and a.goal != "one":
            raise UserError(
                f"agent.goal {a.goal}: dreams pay 1 for an achievement, rewards cannot be standardised: set"
                " agent_objective.standardise_rewards to false"
            )
        if self.train_imagination.checkpoint_every % self.imagination.updates:
            raise UserError(
                f"train_imagination.checkpoint_every {self.train_imagination.checkpoint_every} must be a multiple of"
                f" imagination.updates {self.imagination.updates}: dreams under way are not saved"
            )
        if self.sampling.support and self.imagination.finetune == "agent":
            raise UserError(
                "sampling.support is read off features by the cloned policy, which does not know those that"
                " imagination.finetune agent makes: set one of the two to its default"
            )
        for name, context in (("imagination", self.imagination.context), ("evaluation", self.evaluation.context)):
            if context > d.context:
                raise UserError(f"{name}.context {context} exceeds dynamics.context {d.context}")
        for name in ("train_tokenizer", "train_dynamics", "train_agent"):
            stage = getattr(self, name)
            if 0 < stage.long_length < stage.length:
                raise UserError(f"{name}.long_length {stage.long_length} is shorter than its length {stage.length}")
        whole = self.imagination.context + self.imagination.horizon
        if self.imagination.finetune == "agent" and whole > d.context:
            raise UserError(
                f"imagination.finetune agent reads {whole} frames at once (imagination.context + horizon):"
                f" dynamics.context is {d.context}"
            )

    def with_actions(self, actions: ActionSpec) -> "Config":
        """The same with other actions."""
        return dataclasses.replace(self, env=dataclasses.replace(self.env, actions=actions))

    @property
    def run_dir(self) -> Path:
        """Where logs, results and the report of this run go."""
        return Path(self.runs_dir) / self.name

    def dataset_dir(self, task: str) -> Path:
        """One dataset folder per task."""
        return Path(self.data_dir) / task

    def weights(self, stage: str) -> Path:
        """The finished weights of a stage."""
        run = self.world if self.world and stage in ("tokenizer", "dynamics") else self.name
        return Path(self.models_dir) / run / f"{stage}.safetensors"

    def lpips_weights(self, net: str) -> Path:
        """The weights of an LPIPS network, shared by all runs."""
        return Path(self.cache_dir).expanduser() / f"lpips-{net}.safetensors"

    def checkpoint(self, stage: str) -> Path:
        """Where a stage that is under way can go on from."""
        return self.run_dir / "checkpoints" / f"{stage}.safetensors"

    def finished_state(self, stage: str) -> Path:
        """The last checkpoint of a finished stage, from which it can be trained on."""
        return self.run_dir / "checkpoints" / f"{stage}.finished.safetensors"

    def initial_weights(self, phase: str) -> Path | None:
        """The weights that the stages of a phase are asked to begin with, if any."""
        asked: str = getattr(self, f"train_{phase}").init_from
        if not asked:
            return None
        is_file = asked.endswith(".safetensors")
        return Path(asked) if is_file else Path(self.models_dir) / asked / f"{phase}.safetensors"
