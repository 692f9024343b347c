"""Crafter's presets."""

from dataclasses import replace

from embody.config import (
    ActionSpec,
    AgentConfig,
    AgentObjective,
    CollectConfig,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    EnvConfig,
    EvaluationConfig,
    ImaginationConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.games.crafter.schedule import AchievementSchedule
from embody.games.crafter.tasks import ACTION_NAMES

__all__ = ["crafter", "crafter_small"]


def crafter_small() -> Config:
    """Crafter, 22 achievements; hours on two CPU cores.

    The tokenizer has 1.8M parameters, the dynamics 1.6M and the agent 2.5M.
    """
    shape = TransformerConfig(width=192, depth=2, heads=4, kv_heads=2, mlp_width=480)
    trunk = TransformerConfig(
        width=192,
        depth=4,
        heads=4,
        kv_heads=2,
        pattern="STSS",
        mlp_width=480,
        time_rope=(3.14, 20.0),
        time_query_gain=2.5,
    )
    lengths = StageConfig(batch=16, length=8, long_length=32, lr=1e-3, muon_lr=4e-3)
    return Config(
        name="crafter_small",
        preset="crafter_small",
        env=EnvConfig(
            game="crafter",
            tasks=("crafter",),
            max_steps=(1000,),
            height=64,
            width=64,
            fps=5,
            actions=ActionSpec.of_names(ACTION_NAMES),
        ),
        # These are about half a million steps; docs/crafter.md shows how many achievements each noise level has.
        collect=CollectConfig(
            train_episodes=1000, noise_levels=(0.0, 0.1, 0.3), random_fraction=0.05, unlabelled_fraction=0.2
        ),
        # A cell has 7x7 pixels. A patch covers 2x2 cells, and each patch has one latent and one dynamics token.
        tokenizer=TokenizerConfig(
            patch=14,
            padded=(70, 70),
            latents=25,
            channels=32,
            encoder=replace(shape, pattern="TS"),
            decoder=replace(shape, pattern="S"),
            context=2,
        ),
        tokenizer_objective=TokenizerObjective(
            mask_max=0.05,  # masked cells cannot be predicted from others: at 0.3 they are most of the loss (LOG.md)
            lpips="none",
            uniform_share=0.5,  # tables, diamonds and zombies are rare and learnt last
        ),
        dynamics=DynamicsConfig(tokens=25, channels=32, registers=4, context=32, trunk=trunk),
        dynamics_objective=DynamicsObjective(
            contexts="alternate",
            tau_power=2.0,
            ramp=False,
            image_fraction=0.02,
            unlabelled_fraction=0.02,
            bootstrap_fraction=0.2,
            bootstrap_start=0.6,
            uniform_share=0.5,
        ),
        agent=AgentConfig(
            hidden=160,
            distances=1,  # later actions are mostly unpredictable and would take most of the gradient (LOG.md)
            words=4,
            # Crafter's own reward, for achievements and health. With goal "one" the policy mostly ignores its label,
            # and imagination exploits errors of the reward head (LOG.md).
            goal="recorded",
            reward_range=(-1.0, 1.2),
            value_range=(-2.0, 12.0),
        ),
        agent_objective=AgentObjective(
            heads_input="context",
            dynamics_weight=0.0,  # the dynamics model has converged before, so the agent gets twice the steps
            uniform_share=0.125,
            miss_share=0.25,
            policy_weight=10.0,  # LOG.md
            event_lead=24,  # without it, short clips would show only the last steps before an event
        ),
        sampling=SamplingConfig(k_sample=2, support=0.03),
        # Three quarters of the contexts end shortly before an event; all are from the first 200 timesteps of episodes,
        # which agents survive.
        imagination=ImaginationConfig(
            context=16,
            horizon=15,
            gamma=0.97,
            alpha=1.0,
            beta=1.0,
            margin=0.1,
            updates=4,
            uniform_share=0.25,
            first_timesteps=200,
        ),
        train_tokenizer=StageConfig(
            epochs=0.25, batch=64, length=1, long_length=2, long_every=2, lr=2e-3, muon_lr=8e-3
        ),
        train_dynamics=replace(lengths, epochs=1.2),
        train_agent=replace(lengths, epochs=1.5),
        train_imagination=StageConfig(
            epochs=1.0, batch=64, lr=1e-3, weight_decay=0.0, clip=0.5, ema=0.98, checkpoint_every=20, log_every=4
        ),
        evaluation=EvaluationConfig(episodes=200, batch=50, context=16, horizon=32),
        schedule=AchievementSchedule(),
    )


def crafter() -> Config:
    """Crafter with larger models, 12M parameters; one GPU.

    The dynamics model and the agent are larger than those of `crafter_small` and train for more epochs.
    """
    small = crafter_small()
    trunk = replace(small.dynamics.trunk, width=256, depth=6, heads=4, kv_heads=2, pattern="STS", mlp_width=704)
    lengths = replace(small.train_dynamics, batch=128, epochs=8.0)
    return replace(
        small,
        name="crafter",
        preset="crafter",
        dynamics=replace(small.dynamics, trunk=trunk, context=64),
        agent=replace(small.agent, hidden=512),
        train_tokenizer=replace(small.train_tokenizer, batch=128, epochs=0.6),
        train_dynamics=lengths,
        train_agent=replace(lengths, epochs=2.0),
        train_imagination=replace(small.train_imagination, epochs=0.6),
    )
