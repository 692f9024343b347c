"""The recipes of weights, and which weights a stage may start from.

The recipe of a stage is everything that its weights depend on; it is stored in the file of the weights. Weights with
another recipe do not count as finished, and no stage starts from upstream weights whose settings differ from the run's.
The sampling settings of phase 3 are part of its recipe, but may change later: a difference is only logged.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embody.config import Config, StageConfig, digest, from_dict, to_dict
from embody.data import Dataset, labelled_meta
from embody.data.goal import goal_of
from embody.errors import UserError
from embody.logger_manager import LoggerManager
from embody.run.stages import STAGES, StageSpec
from embody.saving.checkpoint import MAY_CHANGE
from embody.saving.differences import described, differences
from embody.saving.tensors import load_metadata, load_tensors, tensors_hash

__all__ = [
    "HISTORY",
    "check_trained_here",
    "check_upstream",
    "evaluation_digest",
    "is_finished",
    "log_stale",
    "log_sampling_differences",
    "recipe",
    "settings_of",
    "tokenizer_hash",
]

HISTORY = "history"  # key beside the recipe in a weights file: how training went; recipes are compared without it

_WORLD_STAGES = ("tokenizer", "dynamics")  # taken from the run `Config.world`, if that is set


def recipe(config: Config, name: str, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """All that the weights of the stage `name` depend on, JSON-ready. Its upstream weights must exist."""
    spec, meta = STAGES[name], labelled_meta(datasets)
    optional: dict[str, Any] = {}
    if config.data.weights:
        optional["weights"] = config.data.weights
    if "agent" in spec.models and goal_of(config.agent.goal).lists_remaining_tasks:
        optional["labels"] = meta.labels
    return _as_json(
        {
            **settings_of(config, name),
            "stage": name,
            "data": [dataset.fingerprint for dataset in datasets],
            "vocabulary": meta.vocabulary,
            **optional,
            "upstream": _upstream_digest(config, spec),
            "seed": config.seed,
            "precision": config.precision,
        }
    )


def is_finished(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the weights at `path` exist and need no more training to have the recipe `wanted`.

    Training continues if the number of steps differs, and nothing else but settings of `MAY_CHANGE`. Sampling settings
    may differ. A `UserError` names any other difference.
    """
    if not path.exists():
        return False
    different = differences(_without_sampling(_stored_recipe(path)), _without_sampling(wanted))
    continues = different.keys() <= MAY_CHANGE and different.keys() & {"training.steps", "training.epochs"}
    if different and not continues:
        raise UserError(
            f"{path} was trained with other settings or data ({described(different)}): delete it, or use another --name"
        )
    return not different


def log_stale(config: Config, name: str, logger: LoggerManager) -> None:
    """Warn of each of the run's finished weights that were trained from older weights of the stage `name`."""
    for later, spec in STAGES.items():
        path = config.weights(later)
        if name in spec.upstream and path.exists():
            logger.warning(f"{path} is stale: it was trained from older {name} weights; delete it to train it again")


def check_upstream(config: Config, *names: str, skip_missing: bool = False) -> None:
    """A `UserError` if weights of the stages `names` are missing or were trained with settings other than `config`'s.

    Their data may differ, as a tokenizer can serve tasks that it was not trained on. So may their sampling settings.
    `skip_missing`: missing weights are no error.
    """
    for name in names:
        spec, path = STAGES[name], config.weights(name)
        if skip_missing and not path.exists():
            continue
        found = _stored_recipe(path)
        has_upstream = bool(spec.upstream) and config.weights(spec.upstream[-1]).exists()
        if has_upstream and found.get("upstream") != _upstream_digest(config, spec):
            raise UserError(
                f"{path} was trained from other {spec.upstream[-1]} weights than those in {path.parent} (upstream"
                " differs): delete it to train it again"
            )
        wanted = _without_sampling(settings_of(config, name)) | {"seed": config.seed}
        remedy = "keep the settings of finished stages, delete it to train it again, or use another --name"
        if config.world and name in _WORLD_STAGES:
            del wanted["seed"]
            remedy = f"use the settings of run {config.world}, which trained it"
        if different := differences({part: found.get(part) for part in wanted}, wanted):
            raise UserError(f"{path} was trained with other settings ({described(different)}): {remedy}")


def log_sampling_differences(config: Config, names: Sequence[str], logger: LoggerManager) -> None:
    """Log each of the finished weights whose recipe has other sampling settings than `config`."""
    own = _as_json(to_dict(config.sampling))
    for path in filter(Path.exists, map(config.weights, names)):
        found = _stored_recipe(path).get("sampling", own)
        if different := [name for name in own if found[name] != own[name]]:
            theirs = " and ".join(f"sampling.{name} {found[name]}" for name in different)
            ours = " and ".join(str(own[name]) for name in different)
            logger.info(f"{path} was trained with {theirs}, this run samples with {ours}")


def check_trained_here(config: Config, name: str) -> None:
    """A `UserError` if the stage `name` belongs to the run `config.world`, not to this one."""
    if config.world and name in _WORLD_STAGES:
        raise UserError(
            f"{config.name} takes its {name} from run {config.world}: train it there (--name {config.world})"
        )


def tokenizer_hash(config: Config) -> str:
    """The hash of the run's tokenizer, which names the folder of its latents."""
    return tensors_hash(load_tensors(config.weights("tokenizer"))[0])


def settings_of(config: Config, name: str) -> dict[str, Any]:
    """The settings that the weights of the stage `name` depend on, JSON-ready."""
    return _as_json(_settings(config, STAGES[name]))


def evaluation_digest(config: Config, tokenizer_hash: str, datasets: Sequence[Dataset]) -> str:
    """A digest of all that measurements depend on apart from the weights, such as the sampling settings."""
    parts = (
        *(config.evaluation, config.env, config.collect, config.imagination, config.schedule, config.dynamics),
        *(config.agent, config.dynamics_objective, config.agent_objective, config.sampling),
    )
    data = [dataset.fingerprint for dataset in datasets]
    return digest([[to_dict(part) for part in parts], config.seed, tokenizer_hash, data])


def _settings(config: Config, spec: StageSpec) -> dict[str, Any]:
    """As `settings_of`, but as dataclasses."""
    config = spec.change(config)
    models = {
        "frame": config.env.frame,
        "actions": config.env.actions,
        "tokenizer": config.tokenizer,
        "dynamics": config.dynamics,
        "agent": config.agent,
    }
    objectives = {
        "tokenizer": config.tokenizer_objective,
        "dynamics": config.dynamics_objective,
        "agent": config.agent_objective,
        "imagination": config.imagination,
    }
    parts: dict[str, Any] = {
        "models": {name: models[name] for name in spec.models},
        "objective": {name: objectives[name] for name in spec.objectives},
        "training": _training(getattr(config, f"train_{spec.phase}")),
        "imagination": {name: getattr(config.imagination, name) for name in spec.imagination},
    }
    return parts | ({"sampling": config.sampling} if spec.sampling else {})


def _training(stage: StageConfig) -> dict[str, Any]:
    """The training settings that weights depend on: `steps` if set, else `epochs`."""
    left_out = ("checkpoint_every", "log_every", "epochs" if stage.steps else "steps")
    return {name: value for name, value in to_dict(stage).items() if name not in left_out}


def _upstream_digest(config: Config, spec: StageSpec) -> str:
    """The digest of the upstream weights of a stage."""
    if not spec.upstream:
        return digest(None)
    hashed, nearest = tokenizer_hash(config), spec.upstream[-1]
    return digest(hashed if nearest == "tokenizer" else [hashed, load_metadata(config.weights(nearest))])


def _stored_recipe(path: Path) -> dict[str, Any]:
    """The recipe stored in a stage's weights file. Settings that are newer than the file have their defaults.

    A `UserError` names the file if it has a setting that no longer exists, or lacks a group of settings.
    """
    stored, spec = load_metadata(path), STAGES[path.stem]
    try:
        groups = _settings(Config(), spec)
        settings = {part: _with_defaults(value, stored[part]) for part, value in groups.items() if part != "training"}
        settings["training"] = _training(from_dict(StageConfig, stored["training"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was trained by another version ({error}): delete it, or use another --name") from error
    return _as_json({name: value for name, value in {**stored, **settings}.items() if name != HISTORY})


def _with_defaults(like: Any, values: Any) -> Any:
    """Stored `values` as the dataclasses in `like`, which is one group of settings or a dict of groups."""
    if isinstance(like, dict):
        return {name: _with_defaults(group, values[name]) for name, group in like.items()}
    return from_dict(type(like), values) if dataclasses.is_dataclass(like) else values


def _without_sampling(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {part: value for part, value in recipe.items() if part != "sampling"}


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` after a round trip through JSON."""
    return json.loads(json.dumps(values, default=to_dict))
