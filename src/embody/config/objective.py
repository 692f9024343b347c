"""What the models are trained for: the terms of the losses, and the rows of a batch that each term uses.

Values marked [P] are the paper's.
"""

from dataclasses import dataclass
from typing import Literal

from embody.config.bounds import Count, Natural, NotNegative, Positive, PositiveShare, Share, ShareBelowOne
from embody.errors import UserError

__all__ = ["AgentObjective", "DynamicsObjective", "ImaginationConfig", "TokenizerObjective"]


@dataclass(frozen=True)
class TokenizerObjective:
    """Phase 1a: the tokenizer reconstructs frames with dropped patches."""

    mask_max: Share = 0.9
    """Each image drops a share p of its patches, p ~ U(0, mask_max); mask_max is from 0 to 1 [P: 0.9]."""
    random_crop: Natural = 0
    """Training videos are padded by this many black pixels on each side, at least 0, and cropped at a random place; 0
    turns it off."""
    lpips: Literal["none", "alex", "vgg"] = "vgg"
    """The perceptual loss (LPIPS) uses this classification network, or is left out (none); vgg is meant for
    training."""
    lpips_weight: NotNegative = 0.2
    """The perceptual loss has this weight, at least 0; the squared error has weight 1 [P: 0.2]."""
    decoder_share: ShareBelowOne = 0.0
    """At the end of the training, this share of the steps trains only the decoder, while masking falls to 0; at least
    0, below 1 [P: 0]."""
    uniform_share: PositiveShare = 1.0
    """This share of the rows is drawn uniformly, above 0, at most 1; the others are clips of successful episodes or
    around events [P: 1]."""


@dataclass(frozen=True)
class DynamicsObjective:
    """Phase 1b: the dynamics learns by shortcut forcing (tau is the signal level, d the step size)."""

    loss_space: Literal["x", "v"] = "x"
    """The loss is the squared error of the clean latent (x) [P], or of the velocity (v), which is the former divided by
    (1 - tau)^2."""
    step_draw: Literal["partial", "uniform"] = "partial"
    """Either only the bootstrap rows have d > d_min (partial), or every frame draws d from {1, 1/2, 1/4, ..., d_min}
    (uniform) [P]."""
    bootstrap_fraction: Share = 0.25
    """With step_draw partial, this share of the rows has the bootstrap term, from 0 to 1; 0 turns the term off."""
    bootstrap_start: Share = 0.3
    """The bootstrap term begins after this share of the training, from 0 to 1; until then all frames have d = d_min
    [P: 0]."""
    image_fraction: Share = 0.3
    """This share of the rows is trained as separate images, from 0 to 1 [P: 0.3]."""
    unlabelled_fraction: Share = 0.05
    """The actions of this share of the rows are hidden from the model, from 0 to 1."""
    contexts: Literal["noised", "alternate"] = "noised"
    """Either every frame draws its own signal level (noised) [P], or frames 0, 2, 4, ... have the context level, as the
    history of a rollout has (alternate)."""
    tau_power: Positive = 1.0
    """The signal level is u to this power (above 0) for u ~ U(0, 1), rounded down to the grid of d; a power over 1
    makes low levels more frequent [P: 1]."""
    ramp: bool = True
    """If true, the loss is weighted by w(tau) = 0.9 tau + 0.1 [P]."""
    uniform_share: PositiveShare = 1.0
    """This share of the rows is drawn uniformly, above 0, at most 1; the others are clips of successful episodes or
    around events [P: 1]."""


@dataclass(frozen=True)
class AgentObjective:
    """Phase 2: behaviour cloning, and the reward, value and continue heads; the dynamics loss continues."""

    heads_input: Literal["noised", "context"] = "noised"
    """The heads read frames that are noised as the dynamics loss noises them (noised) [P], or always at the context
    level (context)."""
    standardise_rewards: bool = False
    """If true, rewards are standardised by their mean and standard deviation in the data, and agent.reward_range is in
    standard deviations."""
    dynamics_weight: NotNegative = 1.0
    """The dynamics loss has this weight in phase 2, at least 0; 0 turns it off."""
    policy_weight: NotNegative = 1.0
    """The behaviour cloning loss has this weight, at least 0; each loss of the agent is divided by its running RMS
    first [P: 1]."""
    uniform_share: PositiveShare = 0.5
    """This share of the rows is drawn from all episodes and trains the dynamics, above 0, at most 1; the others come
    from episodes that achieve their task and train the policy [P: 0.5]. At 1 all rows train the policy."""
    miss_share: Share = 0.0
    """This further share of the rows, from 0 to 1, shows a miss: the action that usually brings the task's event, but
    no event. They teach the reward head that the action alone is not rewarded; the policy is not trained on them [P:
    0]."""
    event_lead: Natural = 0
    """A clip drawn for an event contains it, or ends at most this many timesteps before it, at least 0."""
    event_steps: Count = 1000
    """`EventClassifier` is trained for this many optimiser steps after the agent, at least 1; multi-achievement mode
    only."""
    event_rows: Count = 512
    """`EventClassifier` and `RiskModel` learn from this many pairs of successive frames a step, at least 1."""
    risk_steps: Count = 2000
    """`RiskModel` is trained for this many optimiser steps after `EventClassifier`, at least 1; multi-achievement mode
    only."""
    once: bool = False
    """If true, a task ends with its first event, in returns and in dreams, so that it is rewarded only once."""
    clone_null: bool = True
    """If true, behaviour cloning includes the timesteps that were reached by doing nothing; VPT leaves them out."""
    world_lr_scale: NotNegative = 0.1
    """The dynamics' learning rate in phase 2 is this multiple of the agent's, at least 0, wherever it still learns."""

    def __post_init__(self) -> None:
        if self.uniform_share + self.miss_share > 1:
            raise UserError(
                f"agent_objective.uniform_share {self.uniform_share:g} and miss_share {self.miss_share:g} are more"
                " than all rows: lower one of them"
            )


@dataclass(frozen=True)
class ImaginationConfig:
    """Phase 3: reinforcement learning in dreams by PMPO."""

    context: Count = 10
    """A dream starts from this many recorded frames, at least 1."""
    horizon: Count = 16
    """A dream has this many imagined frames, at least 1."""
    gamma: Share = 0.997
    """Returns discount rewards by this factor a timestep, from 0 to 1 [P: 0.997]."""
    lambda_: Share = 0.95
    """Lambda-returns weigh the next return by lambda and the next value by 1 - lambda; lambda is from 0 to 1."""
    alpha: Share = 0.5
    """The policy loss weighs actions of positive advantage by alpha and those of negative advantage by 1 - alpha; alpha
    is from 0 to 1 [P: 0.5]."""
    beta: NotNegative = 0.3
    """The divergence KL[policy || prior] has this weight in the policy loss, at least 0 [P: 0.3]."""
    margin: NotNegative = 0.0
    """Advantages closer to 0 than this are ignored, since their sign is mostly noise; in units of the return, at least
    0 [P: 0]."""
    finetune: Literal["heads", "agent"] = "heads"
    """Phase 3 trains the policy and value heads (heads) [P], or also the agent's layers and those it shares with the
    dynamics (agent); a frozen copy then gives the prior and, for goal one, rewards and ends."""
    updates: Count = 1
    """Each batch of dreams serves this many gradient steps, at least 1."""
    uniform_share: PositiveShare = 1.0
    """This share of the contexts is drawn uniformly, above 0, at most 1; the others are of successful episodes or end
    at most `horizon` timesteps before an event [P: 0.5]."""
    first_timesteps: Natural = 0
    """Contexts are drawn from this many first timesteps of each recording, at least 0; 0 means all. An agent that dies
    earlier than the demonstrator never sees the later ones."""
    shuffle_rewards: bool = False
    """If true, the rewards of a batch of dreams are shuffled (the control shuffled_rewards)."""
