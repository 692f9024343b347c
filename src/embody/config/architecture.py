"""What the models are built of. Weights fit one architecture; nothing here changes how they are trained or sampled.

Numbers marked [P] are stated in the paper. What the models have from elsewhere is not set here a second time: the size
of a frame and the actions are the environment's (`EnvConfig`), and the agent's trunk has the shape of the dynamics'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from embody.config.bounds import Count, Natural, NotNegative, Positive, Range, Share
from embody.errors import UserError

__all__ = ["ActionSpec", "AgentConfig", "DynamicsConfig", "Goal", "TokenizerConfig", "TransformerConfig"]

Choices = Annotated[int, Range(2)]
Goal = Literal["one", "all", "recorded"]


@dataclass(frozen=True)
class ActionSpec:
    """Factored categorical actions: `sizes[a]` choices of factor `a`; an action is int64 `[A]`."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or any(size < 2 for size in self.sizes):
            raise UserError(f"action sizes {self.sizes}: every factor needs at least 2 choices")

    @classmethod
    def of_names(cls, names: Sequence[Sequence[str]]) -> "ActionSpec":
        """As many choices as each factor has names."""
        return cls(tuple(map(len, names)))


@dataclass(frozen=True)
class TransformerConfig:
    """A block-causal transformer: `S` layers attend inside a frame, `T` layers causally along time."""

    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    kv_heads: Count = 2
    pattern: str = "SSST"  # repeated over the depth [P: space, space, space, time]
    mlp_width: Count = 320
    soft_cap: NotNegative = 0.0  # attention logits bounded by cap * tanh(x / cap); 0 is off
    rope_base: Positive = 10_000.0
    time_rope: tuple[Positive, Positive] = (1.0, 10_000.0)  # of time layers: fastest turn (radians a frame) and base
    time_query_gain: float = 1.0  # of time layers at the start: small heads with QK-norm attend too evenly at 1

    def check(self, name: str) -> None:
        """A `UserError` if numbers that are each in their range do not go together; `name` is the setting's."""
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(f"{name}: width {self.width} must split into {self.heads} heads of an even size")
        if self.heads % self.kv_heads:
            raise UserError(f"{name}: heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if not self.pattern or set(self.pattern) - set("ST"):
            raise UserError(f"{name}.pattern {self.pattern!r}: only the letters S (space) and T (time)")

    @property
    def layers(self) -> str:
        """The kind of each layer, e.g. `SSSTSSST`."""
        return (self.pattern * self.depth)[: self.depth]


@dataclass(frozen=True)
class TokenizerConfig:
    """Masked-autoencoder video tokenizer, causal in time."""

    patch: Count = 8  # pixels a side
    latents: Count = 8  # latent tokens a frame
    channels: Count = 16  # numbers a latent token
    context: Count = 8  # frames that a time layer sees, this one included
    encoder: TransformerConfig = TransformerConfig()
    decoder: TransformerConfig = TransformerConfig()
    padded: tuple[Natural, Natural] = (0, 0)  # size that frames are zero-padded to; 0: the next multiple of patch

    def grid(self, frame: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of a `frame` of (height, width) pixels, with the padding."""
        rows, columns = (
            padded // self.patch if padded else -(-side // self.patch)
            for side, padded in zip(frame, self.padded, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class DynamicsConfig:
    """Dynamics transformer over latents, by shortcut forcing."""

    tokens: Count = 8  # spatial tokens a frame; the tokenizer's latents x channels are repacked to these
    channels: Count = 16  # numbers a spatial token
    registers: Natural = 8
    context: Count = 32  # frames that a time layer sees, this one included
    trunk: TransformerConfig = TransformerConfig()
    k_max: Count = 64  # finest grid of signal levels, d_min = 1 / k_max
    context_tau: Share = 0.9  # signal level of context frames, put on the grid
    predict: Literal["x", "v"] = "x"  # what the network puts out: the clean latent z^ [P], or the velocity z - noise

    def __post_init__(self) -> None:
        if self.k_max & (self.k_max - 1):
            raise UserError(f"dynamics.k_max must be a power of two, got {self.k_max}")
        if "S" not in self.trunk.layers:
            raise UserError("dynamics.trunk.pattern needs a space layer: tokens of a frame meet only there")


@dataclass(frozen=True)
class AgentConfig:
    """Agent tokens and their heads."""

    tokens: Count = 4
    own_weights: bool = True  # own layers over the world's tokens; False: the world's layers, as in the paper
    vocabulary: Choices = 64  # words a task label may hold, padding and unknown included
    words: Count = 14  # longest task label
    word_width: Count = 16
    hidden: Count = 128
    distances: Count = 8  # L of multi-token prediction: distances 1..L for the policy, 0..L-1 for the reward
    bins: Choices = 41
    reward_range: tuple[float, float] = (0.0, 1.0)  # in units of reward, before symlog
    value_range: tuple[float, float] = (0.0, 1.0)
    reward_loss: Literal["two_hot", "mse"] = "two_hot"  # [P], or the first request's; it says how the head is read
    # What recordings with events are relabelled for: one task a clip, whose every event pays 1; or all of them, where a
    # timestep pays 1 if it achieves any for the first time in its episode, and the agent is told which are left.
    # "recorded": as that, with the game's own rewards (in Crafter also a tenth of a point of health).
    goal: Goal = "one"
    tasks: Count = 32  # that recordings may have in multi-achievement mode: outputs of `EventClassifier`
    event_hidden: Count = 128  # width of `EventClassifier`, and of `RiskModel`
    event_channels: Count = 16  # numbers that `EventClassifier` and `RiskModel` keep of each token

    def __post_init__(self) -> None:
        for name in ("reward_range", "value_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise UserError(f"agent.{name} must go from low to high, got {low} to {high}")
