"""The presets: functions that return one whole `Config` each; and the seed's names for their defaults."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from embody.config import (
    ActionSpec,
    AgentConfig,
    AgentObjective,
    CollectConfig,
    Config,
    DataConfig,
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
from embody.errors import UserError

__all__ = [
    "PRESETS",
    "GameConfig",
    "Tasks",
    "TrainConfig",
    "crafter",
    "crafter_small",
    "minecraft",
    "minecraft_small",
    "minigrid",
    "preset",
]


def minigrid() -> Config:
    """Four MiniGrid tasks: the whole pipeline on two CPU cores."""
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
        family="minigrid",
        tasks=(
            "BabyAI-GoToLocalS5N2-v0",
            "BabyAI-PutNextLocalS5N3-v0",
            "MiniGrid-DoorKey-6x6-v0",
            "MiniGrid-Fetch-6x6-N2-v0",
        ),
        max_steps=(12, 40, 40, 20),  # random play succeeds in .14, .02, 0 and .09
        actions=ActionSpec((7,)),
    )
    return Config(
        name="minigrid",
        env=env,
        collect=CollectConfig(train_episodes=5000),
        # One latent a cell, and one token of the dynamics.
        tokenizer=TokenizerConfig(
            patch=8,
            latents=36,
            channels=4,
            encoder=replace(shape, depth=2, pattern="TS"),
            decoder=replace(shape, depth=1, pattern="S"),
            context=2,  # as many frames as its clips have: longer histories cost 1.4 dB
        ),
        tokenizer_objective=TokenizerObjective(mask_max=0.3, lpips="none"),  # flat tiles, and nothing to download
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
            dynamics_weight=0.0,  # the time is better spent on cloning: which object is named is learnt late (LOG.md)
            policy_weight=10.0,  # LOG.md
            uniform_share=0.25,
        ),
        sampling=SamplingConfig(k_sample=1),
        imagination=ImaginationConfig(horizon=14, gamma=0.96, updates=4),
        train_tokenizer=StageConfig(epochs=0.18, batch=16, length=2, lr=2e-3, muon_lr=8e-3),
        train_dynamics=StageConfig(epochs=0.8, batch=48, length=2, long_length=16, lr=2e-3, muon_lr=4e-3),
        # Large batches: as many frames in batches of 96 never tell the named object from the other (LOG.md).
        train_agent=StageConfig(epochs=4.0, batch=256, length=6, long_length=16, lr=2e-3, muon_lr=4e-3),
        train_imagination=StageConfig(
            epochs=0.65, batch=64, lr=5e-4, weight_decay=0.0, clip=0.5, checkpoint_every=20, log_every=4
        ),
    )


_RECORDINGS = DataConfig(sources=("vpt",))  # as `embody import vpt` names them


def _vpt_actions() -> ActionSpec:
    keys, camera = 23, 11 * 11  # [P]: binary keys, and one factor for both turns of the camera, in mu-law bins
    return ActionSpec((2,) * keys + (camera,))


def minecraft() -> Config:
    """The paper's size: a tokenizer of 400M parameters and a dynamics of 1.6B, on Minecraft at 20 frames a second.

    [P] is stated in the paper; the rest is chosen so that the parameters come out.
    """
    half = TransformerConfig(width=1024, depth=16, heads=16, kv_heads=16, mlp_width=2688, soft_cap=50.0)
    trunk = TransformerConfig(width=2048, depth=36, heads=16, kv_heads=2, mlp_width=5632, soft_cap=50.0)
    stage = StageConfig(batch=256, length=64, lr=3e-4, ema=0.999)
    lengths = replace(stage, long_length=256)  # both lengths [P]
    return Config(
        name="minecraft",
        preset="minecraft",
        recompute=True,  # a long row would keep 212 GiB
        env=EnvConfig(
            family="minecraft",
            tasks=("obtain_diamond",),
            max_steps=(72_000,),  # 60 minutes [P]
            height=360,
            width=640,
            fps=20,
            actions=_vpt_actions(),
        ),
        data=_RECORDINGS,
        tokenizer=TokenizerConfig(
            patch=16,
            padded=(384, 640),  # [P]
            latents=512,
            channels=16,
            context=64,
            encoder=half,
            decoder=half,
        ),
        dynamics=DynamicsConfig(tokens=256, channels=32, context=192, trunk=trunk),
        agent=AgentConfig(
            own_weights=False,
            hidden=1024,
            bins=255,
            value_range=(0.0, 334.0),  # events pay 1, and may come again: at most 1 / (1 - gamma)
        ),
        agent_objective=AgentObjective(world_lr_scale=1.0, clone_null=False),
        imagination=ImaginationConfig(context=192),
        train_tokenizer=stage,
        train_dynamics=lengths,
        train_agent=lengths,
        train_imagination=stage,
        evaluation=EvaluationConfig(episodes=1000, rollouts=32, context=192),  # [P]: 1,000 episodes
    )


def minecraft_small() -> Config:
    """Minecraft at 64x64 pixels, on one GPU or a CPU: a tokenizer of 6M parameters and a dynamics of 6M.

    The paper's method and numbers, but for the sizes and what is said beside a setting.
    """
    trunk = TransformerConfig(width=256, depth=8, heads=4, kv_heads=2, mlp_width=688)
    half = replace(trunk, depth=4)
    # Muon: small budgets (LOG.md). 64 frames a step of the tokenizer, 128 of what reads latents.
    stage = StageConfig(batch=8, length=16, long_length=64, lr=1e-3, muon_lr=4e-3)
    return Config(
        name="minecraft_small",
        preset="minecraft_small",
        env=replace(minecraft().env, height=64, width=64),
        data=_RECORDINGS,
        tokenizer=TokenizerConfig(
            patch=8,
            latents=32,
            channels=16,
            context=16,
            encoder=half,
            decoder=half,
        ),
        tokenizer_objective=TokenizerObjective(lpips="none"),  # nothing to download; vgg after `embody weights lpips`
        dynamics=DynamicsConfig(tokens=16, channels=32, context=64, trunk=trunk),
        agent=replace(minecraft().agent, hidden=256),
        agent_objective=minecraft().agent_objective,
        imagination=ImaginationConfig(context=32),
        train_tokenizer=replace(stage, batch=4, long_length=0),
        train_dynamics=stage,
        train_agent=stage,
        train_imagination=replace(stage, long_length=0, lr=3e-4, muon_lr=0.0),
        evaluation=EvaluationConfig(context=32),
    )


def crafter_small() -> Config:
    """Crafter, 22 achievements up to the diamond, on two CPU cores: models of 1.8M, 1.6M and 2.5M parameters."""
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
            family="crafter",
            tasks=("crafter",),
            max_steps=(1000,),
            height=64,
            width=64,
            fps=5,
            actions=ActionSpec((17,)),
        ),
        # Half a million steps; docs/crafter.md has what each level of noise achieves.
        collect=CollectConfig(
            train_episodes=1000, noise_levels=(0.0, 0.1, 0.3), random_fraction=0.05, unlabelled_fraction=0.2
        ),
        # Crafter shows 9x9 cells of 7x7 pixels: a patch, a latent and a token of the dynamics is 2x2 of them.
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
            mask_max=0.05,  # what is masked, nothing foretells: at 0.3 that is most of the loss (LOG.md)
            lpips="none",
            uniform_share=0.5,  # tables, diamonds, zombies are rare cells, and learnt last
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
            distances=1,  # what comes later than the next action takes most of the gradient, and is chance (LOG.md)
            words=4,
            # Crafter's own reward: an achievement a step, and health. A policy hardly
            # heeds a label that the inventory foretells, and imagination finds what the reward head pays by mistake or
            # what no recording does (LOG.md).
            goal="recorded",
            reward_range=(-1.0, 1.2),
            value_range=(-2.0, 12.0),
        ),
        agent_objective=AgentObjective(
            heads_input="context",
            dynamics_weight=0.0,  # the world is as good as it gets before; so the agent has twice the steps
            uniform_share=0.125,
            miss_share=0.25,
            policy_weight=10.0,  # LOG.md
            event_lead=24,  # short clips alone would show the last steps of each search
        ),
        sampling=SamplingConfig(k_sample=2, support=0.03),
        # Three quarters of the contexts end where a dream may hold an event; all are where agents live to be.
        imagination=ImaginationConfig(
            context=16,
            horizon=15,
            gamma=0.97,
            alpha=1.0,
            beta=1.0,
            margin=0.1,
            updates=4,
            uniform_share=0.25,
            first_slots=200,
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
    )


def crafter() -> Config:
    """Crafter on one GPU: `crafter_small` with a larger world and agent, 12M parameters, more passes over the data."""
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


PRESETS: Mapping[str, Callable[[], Config]] = {
    "minigrid": minigrid,
    "crafter_small": crafter_small,
    "crafter": crafter,
    "minecraft_small": minecraft_small,
    "minecraft": minecraft,
}


def preset(name: str) -> Config:
    """The preset `name`; a `UserError` lists the known ones."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()


# --- the seed's names -----------------------------------------------------------------------------------------------


class GameConfig:
    """Where data and weights go by default; read on the class."""

    DATA_DIR = Config.data_dir
    MODELS_DIR = Config.models_dir


class TrainConfig:
    """Epochs of the phases by default; read on the class."""

    train_tokenizer_epochs = minigrid().train_tokenizer.epochs
    train_dynamics_epochs = minigrid().train_dynamics.epochs
    train_agent_epochs = minigrid().train_agent.epochs


Tasks = minigrid().env.tasks
