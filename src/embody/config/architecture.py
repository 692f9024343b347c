"""The architecture of the models. Weights fit one architecture; training and sampling are configured elsewhere.

Values marked [P] are the paper's. Frame size and actions are settings of the environment (`EnvConfig`), and the agent's
layers have the shape of the dynamics' layers, so neither is set here.
"""

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from embody.config.bounds import NotNegative, Positive, Range, Share, check_bounds
from embody.errors import UserError

__all__ = ["ActionSpec", "AgentConfig", "DynamicsConfig", "Goal", "TokenizerConfig", "TransformerConfig"]

# Weights of others bring their architecture, so its numbers are bounded before a model is built.
_MOST = 2**16
Count = Annotated[int, Range(1, most=_MOST)]
Natural = Annotated[int, Range(0, most=_MOST)]
Choices = Annotated[int, Range(2, most=_MOST)]
Context = Annotated[int, Range(1, most=4096)]
Depth = Annotated[int, Range(1, most=1024)]
Goal = Literal["one", "all", "recorded"]
# How a picture becomes one of another shape: whole with black bars, cut at two sides, or with other proportions.
Fit = Literal["letterbox", "crop", "stretch"]


@dataclass(frozen=True)
class ActionSpec:
    """Factored categorical actions: an action is int64 `[A]`, one choice for each factor."""

    sizes: tuple[int, ...]
    """Each action factor has this many choices, at least 2."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "sizes", tuple(operator.index(size) for size in self.sizes))
        except TypeError as error:
            raise UserError(f"action sizes {self.sizes!r}: give an integer for each factor, such as (4,)") from error
        if len(self.sizes) > 1024 or any(size > _MOST for size in self.sizes):
            raise UserError(f"actions have at most 1024 factors of {_MOST} choices")
        if not self.sizes or any(size < 2 for size in self.sizes):
            raise UserError(f"action sizes {self.sizes}: every factor needs at least 2 choices")

    @classmethod
    def of_names(cls, names: Sequence[Sequence[str]]) -> "ActionSpec":
        """As many choices as each factor has names."""
        return cls(tuple(map(len, names)))


@dataclass(frozen=True)
class TransformerConfig:
    """A block-causal transformer: `S` layers attend inside a frame, `T` layers attend causally along time."""

    width: Count = 128
    """A token is a vector of this many numbers, at least 1; heads must split it into even parts."""
    depth: Depth = 4
    """The transformer has this many layers, at least 1."""
    heads: Count = 4
    """Attention has this many query heads, at least 1."""
    kv_heads: Count = 2
    """Attention has this many key and value heads, at least 1; heads must be a multiple of it (grouped queries) [P]."""
    pattern: str = "SSST"
    """The kinds of layers, repeated over the depth: S attends inside a frame, T along time [P: SSST]."""
    mlp_width: Count = 320
    """The hidden layer of each SwiGLU MLP has this many units, at least 1."""
    soft_cap: NotNegative = 0.0
    """Attention logits x become soft_cap * tanh(x / soft_cap), at least 0; 0 turns the cap off [P: capped]."""
    rope_base: Positive = 10_000.0
    """Rotary embedding inside a frame has this base, above 0: it rotates pair i of a head's numbers by base^(-2i / head
    width) radians per position."""
    time_rope: tuple[Positive, Positive] = (1.0, 10_000.0)
    """Rotary embedding along time has this fastest rotation, in radians per frame, and this base; both are above 0."""
    time_query_gain: float = 1.0
    """Normalised queries of time layers are multiplied by a learned gain that starts at this number; small heads with
    QK-norm attend too evenly at 1."""

    def check(self, name: str) -> None:
        """Raises a `UserError` if numbers do not fit together, although each is in its range; `name` is the setting."""
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(f"{name}: width {self.width} must split into {self.heads} heads of an even size")
        if self.heads % self.kv_heads:
            raise UserError(f"{name}: heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if not self.pattern or set(self.pattern) - set("ST"):
            raise UserError(f"{name}.pattern {self.pattern!r}: only the letters S (space) and T (time)")

    @property
    def layers(self) -> str:
        """The kind of each layer, e.g. `SSSTSSST`."""
        return "".join(itertools.islice(itertools.cycle(self.pattern), self.depth))


@dataclass(frozen=True)
class TokenizerConfig:
    """The video tokenizer: a masked autoencoder that is causal in time."""

    patch: Count = 8
    """Frames are cut into square patches of this many pixels a side, at least 1 [P: 16]."""
    latents: Count = 8
    """A frame is encoded as this many latent tokens, at least 1 [P: 512]."""
    channels: Count = 16
    """A latent token holds this many numbers, at least 1 [P: 16]."""
    context: Context = 8
    """Time layers see this many frames, the current one included, at least 1."""
    encoder: TransformerConfig = TransformerConfig()
    """The transformer that turns patches into latents."""
    decoder: TransformerConfig = TransformerConfig()
    """The transformer that turns latents into patches."""
    padded: tuple[Natural, Natural] = (0, 0)
    """Frames are padded with black to this height and width in pixels, each a multiple of patch, at least 0; 0 means
    the next multiple [P: 384 640]."""

    def grid(self, frame: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in a padded `frame` of (height, width) pixels."""
        rows, columns = (
            padded // self.patch if padded else -(-side // self.patch)
            for side, padded in zip(frame, self.padded, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class DynamicsConfig:
    """The dynamics: a transformer over latents that is trained by shortcut forcing."""

    tokens: Count = 8
    """The latents of a frame are repacked to this many spatial tokens, at least 1 [P: 256]."""
    channels: Count = 16
    """A spatial token holds this many numbers, at least 1; tokens x channels is the tokenizer's latents x channels [P:
    32]."""
    registers: Natural = 8
    """A frame has this many register tokens, learned and without input, at least 0."""
    context: Context = 32
    """Time layers see this many frames, the current one included, at least 1 [P: 192]."""
    trunk: TransformerConfig = TransformerConfig()
    """The dynamics' transformer."""
    k_max: Count = 64
    """The finest grid has this many signal levels, a power of two, at least 1; the least step size is d_min = 1 / k_max
    [P: 64]."""
    context_tau: Share = 0.9
    """Context frames are noised to this signal level, rounded to the grid, from 0 to 1 (clean) [P: 0.9]."""
    predict: Literal["x", "v"] = "x"
    """The network predicts the clean latent (x) [P], or the velocity from noise to the clean latent (v)."""

    def __post_init__(self) -> None:
        if self.k_max & (self.k_max - 1):
            raise UserError(f"dynamics.k_max must be a power of two, got {self.k_max}")
        if "S" not in self.trunk.pattern[: self.trunk.depth]:  # `layers` would be as long as an unchecked depth
            raise UserError(
                "dynamics.trunk.pattern needs a space layer (S), the only kind in which tokens of a frame interact"
            )


@dataclass(frozen=True)
class AgentConfig:
    """The agent: its tokens, and the heads that read them."""

    tokens: Count = 4
    """A frame has this many agent tokens, at least 1."""
    own_weights: bool = True
    """If true, the agent has its own layers, which read the dynamics' tokens; if false, it shares the dynamics' layers
    [P]."""
    vocabulary: Choices = 64
    """Task labels use at most this many words, padding and unknown words included, at least 2."""
    words: Count = 14
    """Task labels are cut or padded to this many words, at least 1."""
    word_width: Count = 16
    """A word is embedded as this many numbers, at least 1."""
    hidden: Count = 128
    """The hidden layers of the heads have this many units, at least 1."""
    distances: Count = 8
    """Multi-token prediction covers L timesteps, at least 1: the next L actions, and the rewards of this timestep and
    the L - 1 after it [P: 8]."""
    bins: Choices = 41
    """The reward and value heads predict a distribution over this many bins, at least 2."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """The bins of the reward head span rewards from the first number to the second, which must be higher; in the
    environment's units."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """The bins of the value head span returns from the first number to the second, which must be higher; in the
    environment's units of reward."""
    reward_loss: Literal["two_hot", "mse"] = "two_hot"
    """The reward head is trained by cross-entropy on two-hot targets and decoded around its most likely bin (two_hot)
    [P], or trained by the squared error of its mean and decoded as its mean (mse)."""
    goal: Goal = "one"
    """The agent's goal is one task, each event of which has reward 1 (one), or all tasks at once, with the remaining
    ones as an input: the first event of each has reward 1 (all), or the game's own rewards count (recorded)."""
    tasks: Count = 32
    """In multi-achievement mode (goal all or recorded), a dataset has at most this many tasks; at least 1."""
    event_hidden: Count = 128
    """Hidden layers of `EventClassifier` and `RiskModel` have this many units, at least 1; multi-achievement mode
    only."""
    event_channels: Count = 16
    """`EventClassifier` and `RiskModel` reduce each token to this many numbers, at least 1; multi-achievement mode
    only."""

    def __post_init__(self) -> None:
        for name in ("reward_range", "value_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise UserError(f"agent.{name} must go from a lower to a higher number, got {low} to {high}")


def check_architecture(config: ActionSpec | TokenizerConfig | DynamicsConfig | AgentConfig) -> None:
    """A `UserError` if a number is out of its range or numbers do not fit together, as `Config` checks its parts."""
    check_bounds(config)
    for field in dataclasses.fields(config):
        if isinstance(part := getattr(config, field.name), TransformerConfig):
            part.check(field.name)
