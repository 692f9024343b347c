"""The evaluation of all models that a run has trained."""

from collections.abc import Sequence
from typing import Any

import torch

from embody.config import Config
from embody.data import Dataset
from embody.evaluation.results import write_results_page
from embody.evaluation.run import FinishedParts, evaluate_run
from embody.logger_manager import LoggerManager
from embody.metrics.results_file import write_results
from embody.model import load_dynamics, load_tokenizer, load_world_and_agent
from embody.run.folder import record_stage
from embody.run.provenance import (
    check_upstream,
    evaluation_digest,
    log_sampling_differences,
    tokenizer_hash,
)
from embody.run.stages import CONTROLS
from embody.run.timing import resources
from embody.saving.tensors import tensors_hash

__all__ = ["measure_run"]


def measure_run(
    config: Config, datasets: Sequence[Dataset], device: torch.device, logger: LoggerManager, command: str
) -> dict[str, Any]:
    """Measure the trained models; write `results.json`, `results.md` and the report's pictures into the run's folder.

    A model that is not trained is skipped with a warning. Controls are measured only with `evaluation.full`. An
    interrupted evaluation resumes. If a policy was trained after a complete one, only that policy is measured.
    """
    tokenizer, hashed = load_tokenizer(config.weights("tokenizer"))[0], tokenizer_hash(config)
    names = {"cloning": "agent", "imagination": "imagination"}
    if config.evaluation.full:
        names |= {name: name for name in CONTROLS}
    for name in ("dynamics", *names.values()):
        if not config.weights(name).exists():
            logger.warning(f"{name} is not measured: train it first (`embody train {name}`)")
    path = config.weights("dynamics")
    world = load_dynamics(path)[0].to(device) if path.exists() else None
    policies = {
        policy: load_world_and_agent(config.weights(name))[0].to(device)
        for policy, name in names.items()
        if config.weights(name).exists()
    }
    check_upstream(config, "tokenizer", "dynamics", *names.values(), skip_missing=True)
    log_sampling_differences(config, list(names.values()), logger)
    hashes = {name: tensors_hash(model.state_dict()) for name, model in policies.items()}
    pretrained = "" if world is None else tensors_hash(world.state_dict())
    models = {
        "tokenizer": hashed,
        "dynamics": next(iter(hashes.values()), pretrained),
        "dynamics before the agent": pretrained,
        "random": "",
        **hashes,
    }
    parts = (config.run_dir / "evaluation.json", evaluation_digest(config, hashed, datasets), models)
    with record_stage(config, "evaluate", restart=not len(FinishedParts(*parts))) as record:
        finished = FinishedParts(*parts, record)
        tokenizer.to(device)
        results = evaluate_run(config, tokenizer, hashed, world, policies, datasets, logger, finished)
    results |= {"game": config.env.game, "seed": config.seed, "command": command, **resources(config, device)}
    write_results(config.run_dir / "results.json", results)
    write_results_page(config.run_dir / "results.md", results)
    finished.complete()
    return results
