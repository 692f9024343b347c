"""MiniGrid's preset: the whole pipeline on two CPU cores."""

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
    ImaginationConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.games.minigrid.tasks import ACTION_NAMES

__all__ = ["minigrid"]


def minigrid() -> Config:
    """MiniGrid, four tasks; about 20 minutes on two CPU cores."""
    shape = TransformerConfig(width=128, heads=4, kv_heads=2, mlp_width=320)
    trunk = TransformerConfig(
        width=96,
        depth=4,
        heads=4,
        kv_heads=2,
        pattern="STSS",
        mlp_width=240,
        time_rope=(3.14, 20.0),
        time_query_gain=2.5,
    )
    env = EnvConfig(
        game="minigrid",
        tasks=(
            "BabyAI-GoToLocalS5N2-v0",
            "BabyAI-PutNextLocalS5N3-v0",
            "MiniGrid-DoorKey-6x6-v0",
            "MiniGrid-Fetch-6x6-N2-v0",
        ),
        max_steps=(12, 40, 40, 20),  # within them the random policy succeeds in 14%, 2%, 0% and 9% of the episodes
        actions=ActionSpec.of_names(ACTION_NAMES),
    )
    return Config(
        name="minigrid",
        env=env,
        collect=CollectConfig(train_episodes=5000),
        # Each of the 36 cells is one patch, one latent, and one token of the dynamics model.
        tokenizer=TokenizerConfig(
            patch=8,
            latents=36,
            channels=4,
            encoder=replace(shape, depth=2, pattern="TS"),
            decoder=replace(shape, depth=1, pattern="S"),
            context=2,  # the length of its training clips; longer contexts cost 1.4 dB
        ),
        tokenizer_objective=TokenizerObjective(mask_max=0.3, lpips="none"),  # tiles have no textures
        dynamics=DynamicsConfig(tokens=36, channels=4, context=16, trunk=trunk),
        dynamics_objective=DynamicsObjective(
            bootstrap_fraction=0.2,
            bootstrap_start=0.6,
            image_fraction=0.02,
            unlabelled_fraction=0.02,
            contexts="alternate",
            tau_power=2.0,
            ramp=False,
        ),
        agent=AgentConfig(distances=1),  # episodes have about ten steps
        agent_objective=AgentObjective(
            heads_input="context",
            # All of the stage's time goes to behaviour cloning, which learns late what object a mission names (LOG.md).
            dynamics_weight=0.0,
            policy_weight=10.0,  # LOG.md
            uniform_share=0.25,
        ),
        sampling=SamplingConfig(k_sample=1),
        imagination=ImaginationConfig(horizon=14, gamma=0.96, updates=4),
        train_tokenizer=StageConfig(epochs=0.18, batch=16, length=2, lr=2e-3, muon_lr=8e-3),
        train_dynamics=StageConfig(epochs=0.8, batch=48, length=2, long_length=16, lr=2e-3, muon_lr=4e-3),
        # With batches of 96, the same number of frames does not teach which object the mission names (LOG.md).
        train_agent=StageConfig(epochs=4.0, batch=256, length=6, long_length=16, lr=2e-3, muon_lr=4e-3),
        train_imagination=StageConfig(
            epochs=0.65, batch=64, lr=5e-4, weight_decay=0.0, clip=0.5, checkpoint_every=20, log_every=4
        ),
    )
