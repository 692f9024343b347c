"""Which numbers a config may hold, checked before anything runs: a mistake must not show after hours of training."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from embody.errors import UserError

__all__ = ["check_bounds"]

Range = tuple[float, float]  # closed; NaN is in none

_MANY: Range = (1, math.inf)
_SHARE: Range = (0.0, 1.0)
_NOT_NEGATIVE: Range = (0.0, math.inf)
_POSITIVE: Range = (math.ulp(0.0), math.inf)
_PART: Range = (math.ulp(0.0), 1.0)

# By the class's name and the field's: this module is below the config.
BOUNDS: Mapping[str, Mapping[str, Range]] = {
    "EnvConfig": dict.fromkeys(("height", "width", "fps", "max_steps"), _MANY),
    "CollectConfig": dict.fromkeys(("train_episodes", "validation_episodes"), _MANY)
    | dict.fromkeys(("noise_levels", "random_fraction", "unlabelled_fraction", "mistaken_fraction"), _SHARE)
    | dict.fromkeys(("seed", "workers"), _NOT_NEGATIVE),
    "TransformerConfig": dict.fromkeys(("width", "depth", "heads", "kv_heads", "mlp_width"), _MANY)
    | dict.fromkeys(("rope_base", "time_rope"), _POSITIVE)
    | {"soft_cap": _NOT_NEGATIVE},
    "TokenizerConfig": dict.fromkeys(("height", "width", "patch", "latents", "channels", "context"), _MANY)
    | dict.fromkeys(("padded", "random_crop", "lpips_weight"), _NOT_NEGATIVE)
    | dict.fromkeys(("mask_max", "decoder_share"), _SHARE)
    | {"uniform_share": _PART},
    "DynamicsConfig": dict.fromkeys(("tokens", "channels", "context", "k_max", "k_sample"), _MANY)
    | dict.fromkeys(("context_tau", "bootstrap_fraction", "bootstrap_start", "image_fraction"), _SHARE)
    | {"registers": _NOT_NEGATIVE, "unlabelled_fraction": _SHARE, "tau_power": _POSITIVE, "uniform_share": _PART},
    "AgentConfig": dict.fromkeys(
        (
            "tokens",
            "words",
            "word_width",
            "hidden",
            "distances",
            "tasks",
            "event_hidden",
            "event_channels",
            "event_steps",
            "event_rows",
            "risk_steps",
        ),
        _MANY,
    )
    | dict.fromkeys(("vocabulary", "bins"), (2, math.inf))
    | dict.fromkeys(("dynamics_weight", "policy_weight", "world_lr_scale"), _NOT_NEGATIVE)
    | {"uniform_share": _PART, "miss_share": _SHARE, "support": _SHARE, "event_lead": _NOT_NEGATIVE},
    "ImaginationConfig": dict.fromkeys(("context", "horizon", "updates"), _MANY)
    | dict.fromkeys(("gamma", "lambda_", "alpha"), _SHARE)
    | dict.fromkeys(("beta", "margin", "first_slots"), _NOT_NEGATIVE)
    | {"uniform_share": _PART},
    "StageConfig": dict.fromkeys(("batch", "length", "long_every", "checkpoint_every", "log_every"), _MANY)
    | dict.fromkeys(("epochs", "clip"), _POSITIVE)
    | dict.fromkeys(("steps", "long_length", "lr", "muon_lr", "weight_decay"), _NOT_NEGATIVE)
    | dict.fromkeys(("final_lr", "warmup", "decay", "ema"), _SHARE),
    "DataConfig": {"weights": _POSITIVE},
    "EvaluationConfig": dict.fromkeys(("episodes", "full_episodes", "batch", "rollouts", "context", "horizon"), _MANY),
    "TaskSchedule": dict.fromkeys(("amounts", "max_steps", "episode_steps"), _MANY),
    "Config": dict.fromkeys(("seed", "workers"), _NOT_NEGATIVE),
}


def check_bounds(config: Any) -> None:
    """A `UserError` names the first number of `config`, a dataclass, or of one inside it, that cannot work."""
    for path, part in _parts(config, ""):
        for name, (low, high) in BOUNDS.get(type(part).__name__, {}).items():
            value = getattr(part, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not low <= number <= high or math.isinf(number):
                    wanted = f"at least {low:g}" if high == math.inf else f"in {low:g} to {high:g}"
                    wanted = wanted if low != math.ulp(0.0) else f"above 0{'' if high == math.inf else ', at most 1'}"
                    raise UserError(f"{path}{name} must be {wanted}, got {number:g}")


def _parts(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _parts(value, f"{path}{field.name}.")
    yield path, config
