"""What the models are trained for: the terms of the losses, and which rows of a batch they see.

Numbers marked [P] are stated in the paper.
"""

from dataclasses import dataclass
from typing import Literal

from embody.config.bounds import Count, Natural, NotNegative, Positive, PositiveShare, Share, ShareBelowOne
from embody.errors import UserError

__all__ = ["AgentObjective", "DynamicsObjective", "ImaginationConfig", "TokenizerObjective"]


@dataclass(frozen=True)
class TokenizerObjective:
    """Phase 1a: reconstruction of frames with dropped patches."""

    mask_max: Share = 0.9  # p ~ U(0, mask_max) of an image's patches are dropped [P]
    random_crop: Natural = 0  # training videos are padded by so many zero pixels a side and cropped at random; 0 is off
    lpips: Literal["none", "alex", "vgg"] = "vgg"  # the network of the perceptual loss; vgg is the one made to train on
    lpips_weight: NotNegative = 0.2  # [P]
    decoder_share: ShareBelowOne = 0.0  # of the steps, the last: they train the decoder alone, masking goes to 0
    uniform_share: PositiveShare = 1.0  # of the rows; the others are clips of successes or events [P: 1]


@dataclass(frozen=True)
class DynamicsObjective:
    """Phase 1b: shortcut forcing."""

    # Where errors are squared: of z^ [P], or of the velocity, 1 / (1 - tau)^2 as much.
    loss_space: Literal["x", "v"] = "x"
    # d > d_min, and the bootstrap, on a part of the rows; or d ~ {1, 1/2, ..., d_min} in every frame [P].
    step_draw: Literal["partial", "uniform"] = "partial"
    bootstrap_fraction: Share = 0.25  # that part of the rows; 0 turns the term off
    bootstrap_start: Share = 0.3  # share of the training before the bootstrap term begins [P: 0]; d = d_min until then
    image_fraction: Share = 0.3  # share of rows trained as separate images [P]
    unlabelled_fraction: Share = 0.05  # share of rows whose actions are hidden
    # Every frame has a level of its own [P], or frames 0, 2, 4, ... that of a rollout's history.
    contexts: Literal["noised", "alternate"] = "noised"
    tau_power: Positive = 1.0  # tau ~ u^power, u uniform [P: 1]; above 1, low levels come more often
    ramp: bool = True  # weigh the loss by w(tau) = 0.9 tau + 0.1 [P]
    uniform_share: PositiveShare = 1.0  # of the rows; the others are clips of successes or events [P: 1]


@dataclass(frozen=True)
class AgentObjective:
    """Phase 2: behaviour cloning, rewards, values and ends, with the dynamics' loss beside them."""

    # Levels that the heads read: drawn as in the flow loss [P], or always the context level (the first request).
    heads_input: Literal["noised", "context"] = "noised"
    standardise_rewards: bool = False  # the first request's; agent.reward_range is then in standard deviations
    dynamics_weight: NotNegative = 1.0
    policy_weight: NotNegative = 1.0  # of behaviour cloning among the agent's losses, each over its RMS [P: 1]
    # The share of a batch's rows drawn from all episodes, on which the dynamics loss goes on; the others come from
    # episodes that achieve their task, and the policy is cloned on those alone [P: half]. At 1 it is on all rows.
    uniform_share: PositiveShare = 0.5
    # Of the rows, on top of those: clips with a miss, the action that mostly brings the task's event and no event, or
    # the reward head learns to read the action alone. Not cloned.
    miss_share: Share = 0.0
    # A relevant clip of a recording with events holds one, or begins up to so many timesteps earlier.
    event_lead: Natural = 0
    event_steps: Count = 1000  # of the training of `EventClassifier`, when the agent is done
    event_rows: Count = 512  # pairs of frames in each of these steps, and of those of `RiskModel`
    risk_steps: Count = 2000  # of the training of `RiskModel`, after that
    # A task is over with its first event, in returns and in dreams: an achievement counts once, and what pays again and
    # again in a dream is not worth finding.
    once: bool = False
    clone_null: bool = True  # clone timesteps that were reached by doing nothing; VPT leaves them out
    world_lr_scale: NotNegative = 0.1  # learning rate of the world in phase 2 over the agent's, where it still learns

    def __post_init__(self) -> None:
        if self.uniform_share + self.miss_share > 1:
            raise UserError(
                f"agent_objective.uniform_share {self.uniform_share:g} and miss_share {self.miss_share:g} are more"
                " than all rows: lower one of them"
            )


@dataclass(frozen=True)
class ImaginationConfig:
    """Phase 3: reinforcement learning inside the dream (PMPO)."""

    context: Count = 10  # frames that a dream starts from
    horizon: Count = 16  # imagined frames
    gamma: Share = 0.997
    lambda_: Share = 0.95
    alpha: Share = 0.5
    beta: NotNegative = 0.3
    margin: NotNegative = 0.0  # advantages this close to 0 make an action neither good nor bad: their sign is chance
    # What learns: the policy and value heads [P], or the agent's layers too (and the world's where it lends them). The
    # prior, and rewards and ends of a single task, are then those of a frozen copy.
    finetune: Literal["heads", "agent"] = "heads"
    updates: Count = 1  # gradient steps on each batch of dreams; they cost little beside the dreaming
    # Of the contexts; the others are of successful episodes or, where there are events, end so close to one that the
    # dream may hold it.
    uniform_share: PositiveShare = 1.0
    # Contexts are of the first so many timesteps of a recording: an agent that does not live as long as those who
    # recorded is never where they are later. 0: of all.
    first_timesteps: Natural = 0
    shuffle_rewards: bool = False  # the control: imagined rewards shuffled over the batch
