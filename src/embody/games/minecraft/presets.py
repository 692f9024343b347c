"""Minecraft's presets; they train on VPT's recordings."""

from dataclasses import replace

from embody.config import (
    AgentConfig,
    AgentObjective,
    Config,
    DataConfig,
    DynamicsConfig,
    EnvConfig,
    EvaluationConfig,
    ImaginationConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.games.minecraft.actions import VPT
from embody.games.minecraft.schedule import TaskSchedule

__all__ = ["minecraft", "minecraft_small"]


_RECORDINGS = DataConfig(sources=("vpt",))  # as `embody import vpt` names them


def minecraft() -> Config:
    """Minecraft at the paper's size, 2B parameters.

    The tokenizer has 400M parameters and the dynamics model 1.6B; the game has 20 frames a second. Settings marked [P]
    are stated in the paper. The others are chosen to reach its numbers of parameters.
    """
    half = TransformerConfig(width=1024, depth=16, heads=16, kv_heads=16, mlp_width=2688, soft_cap=50.0)
    trunk = TransformerConfig(width=2048, depth=36, heads=16, kv_heads=2, mlp_width=5632, soft_cap=50.0)
    stage = StageConfig(batch=256, length=64, lr=3e-4, ema=0.999)
    lengths = replace(stage, long_length=256)  # both lengths [P]
    return Config(
        name="minecraft",
        preset="minecraft",
        recompute=True,  # the activations of one long row would need 212 GiB
        env=EnvConfig(
            game="minecraft",
            tasks=("obtain_diamond",),
            max_steps=(72_000,),  # 60 minutes [P]
            height=360,
            width=640,
            fps=20,
            actions=VPT.spec,
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
            value_range=(0.0, 334.0),  # repeated events with reward 1 give at most 1 / (1 - gamma)
        ),
        agent_objective=AgentObjective(world_lr_scale=1.0, clone_null=False),
        imagination=ImaginationConfig(context=192),
        train_tokenizer=stage,
        train_dynamics=lengths,
        train_agent=lengths,
        train_imagination=stage,
        evaluation=EvaluationConfig(episodes=1000, rollouts=32, context=192),  # [P]: 1,000 episodes
        schedule=TaskSchedule(),
    )


def minecraft_small() -> Config:
    """Minecraft at 64x64 pixels, 12M parameters; one GPU or a CPU.

    The tokenizer and the dynamics model have 6M parameters each. Method and numbers are the paper's, except for the
    sizes and for settings with a comment.
    """
    trunk = TransformerConfig(width=256, depth=8, heads=4, kv_heads=2, mlp_width=688)
    half = replace(trunk, depth=4)
    # Muon learns more within small budgets (LOG.md). A step of the tokenizer has 64 frames, of the other stages 128.
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
        # LPIPS needs a download: `embody weights lpips`, then lpips="vgg".
        tokenizer_objective=TokenizerObjective(lpips="none"),
        dynamics=DynamicsConfig(tokens=16, channels=32, context=64, trunk=trunk),
        agent=replace(minecraft().agent, hidden=256),
        agent_objective=minecraft().agent_objective,
        imagination=ImaginationConfig(context=32),
        train_tokenizer=replace(stage, batch=4, long_length=0),
        train_dynamics=stage,
        train_agent=stage,
        train_imagination=replace(stage, long_length=0, lr=3e-4, muon_lr=0.0),
        evaluation=EvaluationConfig(context=32),
        schedule=TaskSchedule(),
    )
