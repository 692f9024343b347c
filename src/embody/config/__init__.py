"""Every setting of embody, as frozen dataclasses, which the presets of each game fill.

Nothing here reads arguments, files or environment variables; only the command line does.
"""

from embody.config.architecture import (
    ActionSpec,
    AgentConfig,
    DynamicsConfig,
    Fit,
    Goal,
    TokenizerConfig,
    TransformerConfig,
    check_architecture,
)
from embody.config.as_dict import digest, from_dict, to_dict
from embody.config.names import check_name
from embody.config.objective import AgentObjective, DynamicsObjective, ImaginationConfig, TokenizerObjective
from embody.config.run import (
    CollectConfig,
    Config,
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    Schedule,
    StageConfig,
)
from embody.config.sampling import SamplingConfig

__all__ = [
    "ActionSpec",
    "AgentConfig",
    "AgentObjective",
    "CollectConfig",
    "Config",
    "DataConfig",
    "DynamicsConfig",
    "DynamicsObjective",
    "EnvConfig",
    "EvaluationConfig",
    "Fit",
    "Goal",
    "ImaginationConfig",
    "SamplingConfig",
    "Schedule",
    "StageConfig",
    "TokenizerConfig",
    "TokenizerObjective",
    "TransformerConfig",
    "check_architecture",
    "check_name",
    "digest",
    "from_dict",
    "to_dict",
]
