"""What weights are made from, and what may be built on them.

A stage's recipe, which is all that its weights depend on, is kept in their file: weights with another recipe are never
taken for finished, and nothing is built on weights whose settings are not the run's. The sampling that phase 3 learnt
from is in its recipe, but finished weights may be sampled otherwise: that is only said.
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
    "check_own_world",
    "check_upstream",
    "evaluation_digest",
    "is_finished",
    "log_stale",
    "log_other_sampling",
    "recipe",
    "settings_of",
    "tokenizer_hash",
]

HISTORY = "history"  # beside the recipe in a file of weights: how its training went, which no recipe is compared by

_OF_ANOTHER_RUN = ("tokenizer", "dynamics")  # the stages that `Config.world` takes from there


def recipe(config: Config, name: str, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """What the weights of the stage `name` depend on, JSON-ready; weights that it is built on must be there."""
    spec, meta = STAGES[name], labelled_meta(datasets)
    optional: dict[str, Any] = {}
    if config.data.weights:
        optional["weights"] = config.data.weights
    if "agent" in spec.models and goal_of(config.agent.goal).told_what_is_left:
        optional["labels"] = meta.labels
    return _plain(
        {
            **settings_of(config, name),
            "stage": name,
            "data": [dataset.fingerprint for dataset in datasets],
            "vocabulary": meta.vocabulary,
            **optional,
            "upstream": _upstream(config, spec),
            "seed": config.seed,
            "precision": config.precision,
        }
    )


def is_finished(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the weights at `path` exist and were made by the recipe `wanted`; false too if only training goes on.

    Training goes on if nothing but settings of `MAY_CHANGE` differ, the number of steps among them. Their sampling may
    differ. Any other difference is a `UserError` that names it.
    """
    if not path.exists():
        return False
    different = differences(_but_sampling(_kept_recipe(path)), _but_sampling(wanted))
    goes_on = different.keys() <= MAY_CHANGE and different.keys() & {"training.steps", "training.epochs"}
    if different and not goes_on:
        raise UserError(
            f"{path} was made with other settings or data ({described(different)}): delete it, or use another --name"
        )
    return not different


def log_stale(config: Config, name: str, logger: LoggerManager) -> None:
    """A warning for each of the run's finished weights that were built on older weights of the stage `name`."""
    for later, spec in STAGES.items():
        path = config.weights(later)
        if name in spec.built_on and path.exists():
            logger.warning(f"{path} is stale: it was built on the older weights of {name}; delete it to train it anew")


def check_upstream(config: Config, *names: str, if_there: bool = False) -> None:
    """A `UserError` if finished weights that are built on were made with other settings than this config's.

    Their data may differ: a tokenizer can serve tasks that it was not trained on. So may their sampling. `if_there`:
    weights may be missing.
    """
    for name in names:
        spec, path = STAGES[name], config.weights(name)
        if if_there and not path.exists():
            continue
        found = _kept_recipe(path)
        built_on_is_there = bool(spec.built_on) and config.weights(spec.built_on[-1]).exists()
        if built_on_is_there and found.get("upstream") != _upstream(config, spec):
            raise UserError(
                f"{path} was made from other weights than those that are here now (upstream differs): delete it to"
                " train it anew"
            )
        wanted = _but_sampling(settings_of(config, name)) | {"seed": config.seed}
        remedy = "leave those of finished stages as they were, delete it to train it anew, or use another --name"
        if config.world and name in _OF_ANOTHER_RUN:
            del wanted["seed"]
            remedy = f"give those of run {config.world}, whose world it is"
        if different := differences({part: found.get(part) for part in wanted}, wanted):
            raise UserError(f"{path} was made with other settings ({described(different)}): {remedy}")


def log_other_sampling(config: Config, names: Sequence[str], logger: LoggerManager) -> None:
    """A line for each of the finished weights that were trained with another sampling than this config's."""
    own = _plain(to_dict(config.sampling))
    for path in filter(Path.exists, map(config.weights, names)):
        found = _kept_recipe(path).get("sampling", own)
        if different := [name for name in own if found[name] != own[name]]:
            theirs = " and ".join(f"sampling.{name} {found[name]}" for name in different)
            ours = " and ".join(str(own[name]) for name in different)
            logger.info(f"{path} was trained with {theirs}, this run samples with {ours}")


def check_own_world(config: Config, name: str) -> None:
    """A `UserError` if the weights of the stage `name` are another run's."""
    if config.world and name in _OF_ANOTHER_RUN:
        raise UserError(f"{config.name} takes tokenizer and dynamics from {config.world}: train them there")


def tokenizer_hash(config: Config) -> str:
    """Names the latents of the run's tokenizer."""
    return tensors_hash(load_tensors(config.weights("tokenizer"))[0])


def settings_of(config: Config, name: str) -> dict[str, Any]:
    """The settings that the weights of the stage `name` depend on, JSON-ready."""
    return _plain(_settings(config, STAGES[name]))


def evaluation_digest(config: Config, tokenizer_hash: str, datasets: Sequence[Dataset]) -> str:
    """What measurements depend on beside the weights: also how models are sampled, and what an agent may choose."""
    parts = (
        *(config.evaluation, config.env, config.collect, config.imagination, config.schedule, config.dynamics),
        *(config.agent, config.dynamics_objective, config.agent_objective, config.sampling),
    )
    data = [dataset.fingerprint for dataset in datasets]
    return digest([[to_dict(part) for part in parts], config.seed, tokenizer_hash, data])


def _settings(config: Config, spec: StageSpec) -> dict[str, Any]:
    """As `settings_of`, still in their classes."""
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
        "imagination": {name: getattr(config.imagination, name) for name in spec.dreams},
    }
    return parts | ({"sampling": config.sampling} if spec.sampling else {})


def _training(stage: StageConfig) -> dict[str, Any]:
    """What weights depend on; the steps only where they are asked for, as the epochs hold otherwise."""
    left_out = ("checkpoint_every", "log_every", "epochs" if stage.steps else "steps")
    return {name: value for name, value in to_dict(stage).items() if name not in left_out}


def _upstream(config: Config, spec: StageSpec) -> str:
    """The digest of the weights that a stage is built on."""
    if not spec.built_on:
        return digest(None)
    hashed, nearest = tokenizer_hash(config), spec.built_on[-1]
    return digest(hashed if nearest == "tokenizer" else [hashed, load_metadata(config.weights(nearest))])


def _kept_recipe(path: Path) -> dict[str, Any]:
    """The recipe in the file of a stage's weights; settings that came after them have their defaults.

    A `UserError` names the file if it has a setting that there is no more, or lacks a group of them.
    """
    kept, spec = load_metadata(path), STAGES[path.stem]
    try:
        groups = _settings(Config(), spec)
        settings = {part: _with_defaults(value, kept[part]) for part, value in groups.items() if part != "training"}
        settings["training"] = _training(from_dict(StageConfig, kept["training"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was made by another version ({error}): delete it, or use another --name") from error
    return _plain({name: value for name, value in {**kept, **settings}.items() if name != HISTORY})


def _with_defaults(like: Any, values: Any) -> Any:
    """Stored `values` of one or several groups of settings, of the classes that those of `like` have."""
    if isinstance(like, dict):
        return {name: _with_defaults(group, values[name]) for name, group in like.items()}
    return from_dict(type(like), values) if dataclasses.is_dataclass(like) else values


def _but_sampling(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {part: value for part, value in recipe.items() if part != "sampling"}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return json.loads(json.dumps(values, default=to_dict))
