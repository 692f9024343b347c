"""Every setting of embody, as frozen dataclasses; `embody.presets` fills them.

Nothing here reads arguments, files or the environment (only `main.py` does).
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from embody.bounds import check_bounds
from embody.errors import UserError

T = TypeVar("T")

_ACTING = ("env", "dynamics", "agent")  # parts of a config that have the actions

__all__ = [
    "AchievementSchedule",
    "ActionSpec",
    "AgentConfig",
    "CollectConfig",
    "Config",
    "DataConfig",
    "DynamicsConfig",
    "EnvConfig",
    "EvaluationConfig",
    "Goal",
    "ImaginationConfig",
    "StageConfig",
    "TaskSchedule",
    "TokenizerConfig",
    "TransformerConfig",
    "digest",
    "from_dict",
    "to_dict",
]


@dataclass(frozen=True)
class ActionSpec:
    """Factored categorical actions: `sizes[a]` choices of factor `a`; an action is int64 `[A]`."""

    sizes: tuple[int, ...] = (7,)

    def __post_init__(self) -> None:
        if not self.sizes or any(size < 2 for size in self.sizes):
            raise UserError(f"action sizes {self.sizes}: every factor needs at least 2 choices")


@dataclass(frozen=True)
class EnvConfig:
    """The real environment and the tasks in it."""

    family: Literal["minigrid", "crafter", "minecraft"] = "minigrid"  # minecraft: a simulator plays it (simulator.md)
    tasks: tuple[str, ...] = ()
    max_steps: tuple[int, ...] = ()  # a limit per task; reaching it truncates, which no frame shows
    height: int = 48
    width: int = 48
    fps: int = 5  # only for playing recordings back
    actions: ActionSpec = ActionSpec()

    def __post_init__(self) -> None:
        if len(self.tasks) != len(self.max_steps):
            raise UserError(f"env.max_steps: one limit per task ({len(self.tasks)}), got {len(self.max_steps)}")


@dataclass(frozen=True)
class DataConfig:
    """Which datasets a run reads, and how they are mixed."""

    sources: tuple[str, ...] = ()  # folders, in data_dir unless absolute; none: one of the name of each env.tasks
    weights: tuple[float, ...] = ()  # of each source: its share of the rows is weight / sum; none: uniform over tasks

    def __post_init__(self) -> None:
        if self.weights and self.sources and len(self.weights) != len(self.sources):
            raise UserError(f"data.weights: one for each of {len(self.sources)} sources, got {len(self.weights)}")


@dataclass(frozen=True)
class CollectConfig:
    """What is recorded, for each task."""

    train_episodes: int = 1000
    validation_episodes: int = 64
    noise_levels: tuple[float, ...] = (0.0, 0.25, 0.5)  # how often a random action replaces the expert's
    random_fraction: float = 0.1  # share of episodes played at random (noise 1)
    unlabelled_fraction: float = 0.0  # share of episodes, of whatever quality, that are left plain videos
    # Share of the expert's episodes in which it takes up with another object of the room (MiniGrid), or does what comes
    # to its mind and fumbles at tables (Crafter).
    mistaken_fraction: float = 0.0
    workers: int = 0  # processes that play; 0: one a core
    seed: int = 0  # of the environments, those of the evaluation included: runs of other seeds share data and tests


@dataclass(frozen=True)
class TransformerConfig:
    """A block-causal transformer: `S` layers attend inside a frame, `T` layers causally along time."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int = 2
    pattern: str = "SSST"  # repeated over the depth [P: space, space, space, time]
    mlp_width: int = 320
    soft_cap: float = 0.0  # attention logits bounded by cap * tanh(x / cap); 0 is off
    rope_base: float = 10_000.0
    time_rope: tuple[float, float] = (1.0, 10_000.0)  # of time layers: fastest turn (radians a frame) and base
    time_query_gain: float = 1.0  # of time layers at the start: small heads with QK-norm attend too evenly at 1

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.kv_heads) < 1:
            raise UserError(f"width {self.width}, heads {self.heads}, kv_heads {self.kv_heads}: each at least 1")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(f"width {self.width} must split into {self.heads} heads of an even size")
        if self.heads % self.kv_heads:
            raise UserError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if not self.pattern or set(self.pattern) - set("ST"):
            raise UserError(f"pattern {self.pattern!r}: only the letters S (space) and T (time)")

    @property
    def layers(self) -> str:
        """The kind of each layer, e.g. `SSSTSSST`."""
        return (self.pattern * self.depth)[: self.depth]


@dataclass(frozen=True)
class TokenizerConfig:
    """Masked-autoencoder video tokenizer, causal in time."""

    height: int = 48
    width: int = 48
    patch: int = 8
    latents: int = 8
    channels: int = 16
    context: int = 8  # frames that a time layer sees, this one included
    encoder: TransformerConfig = TransformerConfig()
    decoder: TransformerConfig = TransformerConfig()
    padded: tuple[int, int] = (0, 0)  # size that frames are zero-padded to; 0: the next multiple of patch
    mask_max: float = 0.9  # p ~ U(0, mask_max) of an image's patches are dropped [P]
    random_crop: int = 0  # training videos are padded by so many zero pixels a side and cropped at random; 0 is off
    lpips: Literal["none", "alex", "vgg"] = "vgg"  # the network of the perceptual loss; vgg is the one made to train on
    lpips_weight: float = 0.2  # [P]
    decoder_share: float = 0.0  # share of the steps, the last, that train the decoder alone while masking goes to 0
    uniform_share: float = 1.0  # of the rows; the others are clips of successes or events, where rare things are [P: 1]

    def __post_init__(self) -> None:
        for side, padded in zip((self.height, self.width), self.padded, strict=True):
            if padded and (padded < side or padded % max(1, self.patch)):
                raise UserError(
                    f"tokenizer.padded {padded}: a multiple of patch {self.patch} that holds {side} pixels, or 0"
                )
        if self.lpips != "none" and min(self.height, self.width) < 32:
            raise UserError(
                f"tokenizer.lpips {self.lpips} needs frames of 32x32 or more, not {self.height}x{self.width}:"
                " set it to none"
            )
        if not 0 <= self.decoder_share < 1:
            raise UserError(f"tokenizer.decoder_share {self.decoder_share}: from 0 to below 1")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, with the padding."""
        rows, columns = (
            padded // self.patch if padded else -(-side // self.patch)
            for side, padded in zip((self.height, self.width), self.padded, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class DynamicsConfig:
    """Shortcut-forcing dynamics over latents."""

    tokens: int = 8  # spatial tokens a frame; the tokenizer's latents x channels are repacked to these
    channels: int = 16
    actions: ActionSpec = ActionSpec()
    registers: int = 8
    context: int = 32  # frames that a time layer sees, this one included
    trunk: TransformerConfig = TransformerConfig()
    k_max: int = 64  # finest grid, d_min = 1 / k_max
    k_sample: int = 4  # denoising passes a frame when sampling
    context_tau: float = 0.9  # signal level of context frames, put on the grid
    predict: Literal["x", "v"] = "x"  # what the network puts out: the clean latent z^ [P], or the velocity z - noise
    loss_space: Literal["x", "v"] = (
        "x"  # where errors are squared: of z^ [P], or of the velocity, 1 / (1 - tau)^2 as much
    )
    step_draw: Literal["partial", "uniform"] = (
        "partial"  # d > d_min, and the bootstrap, on a part of the rows; or d ~ {1, 1/2, ..., d_min} in every frame [P]
    )
    bootstrap_fraction: float = 0.25  # that part of the rows; 0 turns the term off
    bootstrap_start: float = 0.3  # share of the training before the bootstrap term begins [P: 0]; d = d_min until then
    image_fraction: float = 0.3  # share of rows trained as separate images [P]
    unlabelled_fraction: float = 0.05  # share of rows whose actions are hidden
    contexts: Literal["noised", "alternate"] = (
        "noised"  # every frame has a level of its own [P], or frames 0, 2, 4, ... that of a rollout's history
    )
    tau_power: float = 1.0  # tau ~ u^power, u uniform [P: 1]; above 1, low levels come more often
    ramp: bool = True  # weigh the loss by w(tau) = 0.9 tau + 0.1 [P]
    uniform_share: float = 1.0  # of the rows; the others are clips of successes or events, where rare things are [P: 1]

    def __post_init__(self) -> None:
        for name in ("k_max", "k_sample"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise UserError(f"dynamics.{name} must be a power of two, got {value}")
        if self.k_sample > self.k_max:
            raise UserError(f"dynamics.k_sample {self.k_sample} exceeds k_max {self.k_max}")


Goal = Literal["one", "all", "recorded"]


@dataclass(frozen=True)
class AgentConfig:
    """Agent tokens and their heads."""

    tokens: int = 4
    own_weights: bool = True  # own layers over the world's tokens; False: the world's layers, as in the paper
    trunk: TransformerConfig = TransformerConfig()  # the world's; only its shape is used
    actions: ActionSpec = ActionSpec()
    vocabulary: int = 64  # words a task label may hold, padding and unknown included
    words: int = 14  # longest task label
    word_width: int = 16
    hidden: int = 128
    distances: int = 8  # L of multi-token prediction: distances 1..L for the policy, 0..L-1 for the reward
    bins: int = 41
    reward_range: tuple[float, float] = (0.0, 1.0)  # in units of reward, before symlog
    value_range: tuple[float, float] = (0.0, 1.0)
    heads_input: Literal["noised", "context"] = (
        "noised"  # levels drawn as in the flow loss [P], or always the context level [seed]
    )
    reward_loss: Literal["two_hot", "mse"] = "two_hot"  # [P], or the seed's
    standardise_rewards: bool = False  # the seed's reward standardisation; reward_range is then in standard deviations
    dynamics_weight: float = 1.0
    policy_weight: float = 1.0  # of cloning among the agent's losses, each over its RMS [P: 1]
    # Phase 2: the share of a batch's rows drawn from all episodes, on which the dynamics loss goes on; the others come
    # from episodes that achieve their task, and the policy is cloned on those alone [P: half]. At 1 it is on all rows.
    uniform_share: float = 0.5
    # Of the rows, on top of those: clips with a miss, the action that mostly brings the task's event and no event, or
    # the reward head learns to read the action alone. Not cloned.
    miss_share: float = 0.0
    event_lead: int = 0  # a relevant clip of a recording with events holds one, or begins up to so many slots earlier
    # What recordings with events are relabelled for: one task a clip, whose every event pays 1; or all of them, where a
    # slot pays 1 if it achieves any for the first time in its episode, and the agent is told which are left.
    # "recorded": as that, with the game's own rewards (in Crafter also a tenth of a point of health).
    goal: Goal = "one"
    tasks: int = 32  # that recordings may have where all are one goal: outputs of `Events`, which read them off frames
    event_hidden: int = 128  # width of `Events`, and of `Risk`, which says what steps may cost
    event_channels: int = 16  # numbers that `Events` and `Risk` keep of each token
    event_steps: int = 1000  # of the training of `Events`, when the agent is done
    event_rows: int = 512  # pairs of frames in each of these steps, and of those of `Risk`
    risk_steps: int = 2000  # of the training of `Risk`, after that
    # A task is over with its first event, in returns and in dreams: an achievement counts once, and what pays again and
    # again in a dream is not worth finding.
    once: bool = False
    # No action is ever taken, dreaming or playing, that the cloned policy gives less than this share of its likeliest
    # action's probability (discrete BCQ): recordings do not go there, and what dreams say of it is made up. 0: off [P].
    support: float = 0.0
    clone_null: bool = True  # clone slots that were reached by doing nothing; VPT leaves them out
    world_lr_scale: float = 0.1  # learning rate of the world in phase 2, relative to the agent's, where it still learns

    def __post_init__(self) -> None:
        if self.once and self.goal != "one":
            raise UserError(
                f"agent.once ends a task with its first event, agent.goal {self.goal} has many: set once to false"
            )
        if self.standardise_rewards and self.goal != "one":
            raise UserError(
                f"agent.goal {self.goal}: dreams pay 1 for an achievement, rewards cannot be standardised:"
                " set standardise_rewards to false"
            )


@dataclass(frozen=True)
class ImaginationConfig:
    """Reinforcement learning inside the dream (PMPO)."""

    context: int = 10
    horizon: int = 16
    gamma: float = 0.997
    lambda_: float = 0.95
    alpha: float = 0.5
    beta: float = 0.3
    margin: float = 0.0  # advantages this close to 0 make an action neither good nor bad: their sign is chance
    # What learns: the policy and value heads [P], or the agent's layers too (and the world's where it lends them). The
    # prior, and of one task's goal rewards and ends, are then those of a frozen copy.
    finetune: Literal["heads", "agent"] = "heads"
    updates: int = 1  # gradient steps on each batch of dreams; they cost little beside the dreaming
    # Of the contexts; the others are of successful episodes or, where there are events, end so close to one that the
    # dream may hold it.
    uniform_share: float = 1.0
    # Contexts are of the first so many slots of a recording: an agent that does not live as long as those who recorded
    # is never where they are later. 0: of all.
    first_slots: int = 0
    shuffle_rewards: bool = False  # the control: imagined rewards shuffled over the batch


@dataclass(frozen=True)
class StageConfig:
    """One training stage. An epoch is as many frames as the training split holds."""

    epochs: float = 1.0
    steps: int = 0  # of the optimiser; 0: as many as the epochs come to
    batch: int = 16  # rows of a short batch; long batches hold the same number of frames
    length: int = 16  # frames a row
    long_length: int = 0  # frames a row of a long batch [P: T2]; 0: all batches are short
    long_every: int = 4  # every n-th batch is long
    lr: float = 1e-3  # AdamW
    muon_lr: float = 0.0  # Muon for the matrices of the transformer blocks; 0: AdamW for them too
    final_lr: float = 0.05  # of lr, reached by linear decay
    warmup: float = 0.02  # share of the steps
    decay: float = 0.4  # share of the steps, at the end
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    checkpoint_every: int = 100
    log_every: int = 10


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and on how much."""

    episodes: int = 100  # a task and a policy
    full: bool = False  # more episodes, the best-demonstrations and shuffled-reward controls
    full_episodes: int = 200
    batch: int = 100  # environments played side by side
    rollouts: int = 256  # held-out clips for the closed-loop world model measures
    context: int = 10
    horizon: int = 16


@dataclass(frozen=True)
class TaskSchedule:
    """What the agent is asked for in one episode of Minecraft, one task after the other; the last one to the end.

    A task is over when `amounts` of its item were obtained since the episode began (of a `place` task: placed), or
    after `max_steps`. No inventory shows `open` and `use`: they end by time alone. The order and the numbers are ours:
    what a diamond takes at least, with some time to spare.
    """

    tasks: tuple[str, ...] = (
        *("mine_log", "craft_planks", "craft_stick", "craft_crafting_table", "place_crafting_table"),
        *("craft_wooden_pickaxe", "mine_cobblestone", "craft_stone_pickaxe", "craft_furnace", "place_furnace"),
        *("mine_coal", "mine_iron_ore", "craft_iron_ingot", "craft_iron_pickaxe", "mine_diamond"),
    )
    amounts: tuple[int, ...] = (4, 12, 6, 1, 1, 1, 11, 1, 1, 1, 1, 3, 3, 1, 1)
    max_steps: tuple[int, ...] = (
        *(6_000, 1_200, 1_200, 1_200, 600, 1_200, 6_000, 1_200, 1_200, 600),
        *(6_000, 18_000, 2_400, 1_200, 72_000),
    )
    episode_steps: int = 72_000  # 60 minutes at 20 a second [P]

    def __post_init__(self) -> None:
        if not self.tasks or not len(self.tasks) == len(self.amounts) == len(self.max_steps):
            raise UserError(
                f"schedule: {len(self.tasks)} tasks, {len(self.amounts)} amounts and {len(self.max_steps)} max_steps:"
                " give one of each for every task, and at least one task"
            )


@dataclass(frozen=True)
class AchievementSchedule:
    """What the agent is asked for in one episode of Crafter: what it is short of, else what it has not achieved yet.

    Of those it is asked for the first in `order` for which it has achieved all that comes before
    (`embody.games.crafter.environment.AFTER`), and after `patience` steps without it for the next one, round and round.
    """

    order: tuple[str, ...] = (
        *("collect_sapling", "place_plant", "collect_wood", "place_table", "make_wood_pickaxe", "make_wood_sword"),
        *("collect_drink", "collect_stone", "place_stone", "make_stone_pickaxe", "make_stone_sword", "eat_cow"),
        *("collect_coal", "place_furnace", "collect_iron", "make_iron_pickaxe", "collect_diamond", "make_iron_sword"),
        *("wake_up", "defeat_zombie", "defeat_skeleton", "eat_plant"),
    )
    patience: int = 100  # steps
    every: int = 10  # steps from one look of the scheduler to the next: under a new label all of the past is read anew
    low: int = 3  # food, drink or energy, of 9, at which it is asked to eat, drink or sleep


@dataclass(frozen=True)
class Config:
    """One run, whole."""

    name: str = "minigrid"
    preset: str = "minigrid"  # what it began as
    seed: int = 0  # of weights, batches and noise
    world: str = ""  # another run, whose tokenizer and dynamics this one takes: it begins with the agent
    data_dir: str = "data"
    models_dir: str = "models"
    runs_dir: str = "runs"
    logs_dir: str = "logs"
    cache_dir: str = "~/.cache/embody"  # weights that others trained (`embody weights`), shared by all runs
    device: Literal["auto", "cpu", "cuda"] = "auto"  # what trains and is evaluated on; auto: a GPU if torch sees one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = 0  # loader processes; 0: a thread of the training process loads one batch ahead
    recompute: bool = False  # training keeps only the inputs of blocks and computes the rest anew: less memory, slower
    compile: bool = False  # blocks, and the steps of dreams trained in: a minute or more for the first steps of a stage
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()
    collect: CollectConfig = CollectConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    agent: AgentConfig = AgentConfig()
    imagination: ImaginationConfig = ImaginationConfig()
    train_tokenizer: StageConfig = StageConfig()
    train_dynamics: StageConfig = StageConfig()
    train_agent: StageConfig = StageConfig()
    train_imagination: StageConfig = StageConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    schedule: TaskSchedule = TaskSchedule()  # of Minecraft's evaluation in the simulator
    achievements: AchievementSchedule = AchievementSchedule()  # of Crafter's evaluation

    def __post_init__(self) -> None:
        check_bounds(self)
        t, d, a = self.tokenizer, self.dynamics, self.agent
        if t.latents * t.channels != d.tokens * d.channels:
            raise UserError(
                f"tokenizer latents {t.latents}x{t.channels} and dynamics tokens {d.tokens}x{d.channels}"
                " must hold the same numbers: set dynamics.tokens and dynamics.channels"
            )
        if (t.height, t.width) != (self.env.height, self.env.width):
            raise UserError(
                f"tokenizer frame {t.height}x{t.width}, environment {self.env.height}x{self.env.width}: make them equal"
            )
        if d.actions != self.env.actions or a.actions != self.env.actions:
            raise UserError("env.actions, dynamics.actions and agent.actions must be the same")
        if a.uniform_share + a.miss_share > 1:
            raise UserError(
                f"agent.uniform_share {a.uniform_share:g} and miss_share {a.miss_share:g}: more than all rows"
            )
        if "S" not in d.trunk.layers:
            raise UserError("dynamics.trunk.pattern needs a space layer: tokens of a frame meet only there")
        if d.k_max > 1 and round(d.context_tau * d.k_max) == d.k_max:
            raise UserError(
                f"dynamics.context_tau {d.context_tau:g} is 1 on the grid of dynamics.k_max {d.k_max}, a level that is"
                f" never trained: lower it to {1 - 1 / d.k_max:g} or less, or raise k_max"
            )
        if not self.collect.noise_levels:
            raise UserError("collect.noise_levels is empty: name at least one, such as 0.0")
        if d.contexts == "alternate" and self.train_dynamics.length < 2:
            raise UserError("dynamics.contexts alternate predicts every second frame: train_dynamics.length is below 2")
        if a.trunk != d.trunk:
            raise UserError("agent.trunk must equal dynamics.trunk: agent tokens read its keys and values")
        if self.train_imagination.checkpoint_every % self.imagination.updates:
            raise UserError(
                f"train_imagination.checkpoint_every {self.train_imagination.checkpoint_every} must be a multiple of"
                f" imagination.updates {self.imagination.updates}: dreams under way are not saved"
            )
        if a.support and self.imagination.finetune == "agent":
            raise UserError(
                "agent.support is read off features by the cloned policy, which does not know those that"
                " imagination.finetune agent makes: set one of the two to its default"
            )
        for name, context in (("imagination", self.imagination.context), ("evaluation", self.evaluation.context)):
            if context > d.context:
                raise UserError(f"{name}.context {context} exceeds dynamics.context {d.context}")
        for name in ("reward_range", "value_range"):
            low, high = getattr(a, name)
            if not low < high:
                raise UserError(f"agent.{name} must go from low to high, got {low} to {high}")
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

    def acting_by(self, actions: ActionSpec) -> "Config":
        """The same with other actions, of the environment and of both models."""
        parts = {name: dataclasses.replace(getattr(self, name), actions=actions) for name in _ACTING}
        return dataclasses.replace(self, **parts)

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


# --- plain dictionaries ---------------------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as JSON-ready values."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass `cls` from `to_dict`'s values; a `UserError` names any unknown field."""
    return _build(cls, values, cls.__name__)


def _build(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a table of fields, got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise UserError(f"{where}: unknown field {unknown[0]!r}")
        return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    if get_origin(kind) is tuple:
        item_kind = get_args(kind)[0]
        return tuple(_build(item_kind, item, where) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, types.UnionType | type) and not isinstance(value, kind):
        raise UserError(f"{where}: expected {kind}, got {value!r}")
    return value


def digest(values: Any) -> str:
    """Twelve hex digits of JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
