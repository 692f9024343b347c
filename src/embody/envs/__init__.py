"""Real environments: MiniGrid as pixels, its experts, and the seeds that keep the splits apart."""

from embody.envs.minigrid import ACTION_NAMES, TASKS, VOCABULARY, LockstepEnvs, MiniGridPixels, make_env
from embody.envs.planner import Expert, ExpertLost, make_expert
from embody.envs.seeds import environment_seeds, evaluation_seeds

__all__ = [
    "ACTION_NAMES",
    "TASKS",
    "VOCABULARY",
    "Expert",
    "ExpertLost",
    "LockstepEnvs",
    "MiniGridPixels",
    "environment_seeds",
    "evaluation_seeds",
    "make_env",
    "make_expert",
]
