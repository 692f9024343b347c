"""Real environments: MiniGrid and Crafter as pixels, their experts, and the seeds that keep the splits apart."""

from embody.games.lockstep import FAMILIES, Family, LockstepEnvs, PixelEnv, make_env
from embody.games.minigrid.demonstrator import Expert, ExpertLost, make_expert, make_mistaken_expert
from embody.games.seeds import environment_seeds, evaluation_seeds

__all__ = [
    "FAMILIES",
    "Expert",
    "ExpertLost",
    "Family",
    "LockstepEnvs",
    "PixelEnv",
    "environment_seeds",
    "evaluation_seeds",
    "make_env",
    "make_expert",
    "make_mistaken_expert",
]
