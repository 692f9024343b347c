"""`Trainer`: the phases of a run, their order, and the evaluation.

    tokenizer -> encode -> dynamics -> agent -> imagination -> evaluation -> report

Each phase reads the files of the phases before it. It is skipped if it is finished, and resumes from its checkpoint if
it was interrupted.
"""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from embody.config import Config
from embody.data import Dataset, is_complete, open_datasets
from embody.dynamics import Dynamics
from embody.errors import UserError, one_line
from embody.evaluation.cascade import ablate
from embody.evaluation.report import write_report
from embody.evaluation.results import results_markdown
from embody.games import Simulated, preset, simulator
from embody.logger_manager import LoggerManager, ProgressBar
from embody.model import WorldAndAgent, load_dynamics, load_lpips, load_tokenizer, load_world_and_agent
from embody.nn.precision import check_precision
from embody.recording import collect, is_collected
from embody.run.folder import check_run_folder, config_path, record_stage, write_config
from embody.run.inputs import Data, inputs
from embody.run.measuring import measure_run
from embody.run.provenance import check_upstream, log_sampling_differences, tokenizer_hash
from embody.run.stages import CONTROLS, STAGES
from embody.run.timing import machine_line
from embody.run.trainings import make_weights
from embody.saving.atomic_write import check_writable
from embody.tokenizer import Tokenizer
from embody.training.encode import encode_dataset
from embody.training.precision import fastest_precision

__all__ = ["Trainer"]


class Trainer:
    """The phases of one run.

    `data` is a dataset or its folder, or a sequence of these; by default the datasets of the config's tasks. It may
    also be an object that a game recognises as recordings, such as the result of MineRL's `minerl.data.make`; that is
    imported into a dataset in the run's folder. Weights go to `models_dir/NAME`, checkpoints and results to
    `runs_dir/NAME`.

    `tokenizer_epochs`, `dynamics_epochs` and `agent_epochs` (phase 2) replace the config's; None keeps them.
    """

    def __init__(
        self,
        tokenizer_epochs: float | None = None,
        dynamics_epochs: float | None = None,
        agent_epochs: float | None = None,
        *,
        config: Config | None = None,
        logger: LoggerManager | None = None,
    ) -> None:
        config = preset("minigrid") if config is None else config
        if not isinstance(config, Config):
            raise UserError(
                f"a trainer's config must be a Config, such as preset('minigrid'), got {one_line(repr(config), 60)}"
            )
        for stage, epochs in (
            ("train_tokenizer", tokenizer_epochs),
            ("train_dynamics", dynamics_epochs),
            ("train_agent", agent_epochs),
        ):
            if epochs is not None:
                changed = dataclasses.replace(getattr(config, stage), epochs=epochs, steps=0)
                config = dataclasses.replace(config, **{stage: changed})
        self.device = _device(config)
        self._chose_precision = config.precision == "auto"
        if self._chose_precision:
            config = dataclasses.replace(config, precision=fastest_precision(self.device))
        elif config.precision != "auto":
            check_precision(config.precision, self.device)
        self.config = config
        check_run_folder(config.run_dir)
        self.logger = logger or LoggerManager(config.run_dir, Path(config.logs_dir), config.name)

    # --- phases -----------------------------------------------------------------------------------------------------

    def collect(self) -> list[Dataset]:
        """Record the demonstrations of every task."""
        config = self.config
        total = len(config.env.tasks) * (config.collect.train_episodes + config.collect.validation_episodes)
        complete = all(is_complete(config.dataset_dir(task)) for task in config.env.tasks)
        if complete and not config_path(config.run_dir).exists():
            write_config(self._device_independent())
        timing = contextlib.nullcontext() if complete else record_stage(self._device_independent(), "collect")
        with timing as record, self.logger.progress("collect", total) as bar:
            done: dict[str, int] = {}

            def progress(task: str, episodes: int, _: int) -> None:
                bar.advance(episodes - done.get(task, 0), note=task)
                done[task] = episodes
                if record:
                    record()

            collect(config, progress, self.logger.info)
        return open_datasets(config)

    def train_tokenizer(self, data: Data | None = None) -> Tokenizer:
        """Phase 1a: train the tokenizer, unless it is finished."""
        return load_tokenizer(self.train("tokenizer", data))[0]

    def encode(self, data: Data | None = None) -> None:
        """Encode the datasets with the tokenizer; latents that already exist are kept."""
        check_upstream(self.config, "tokenizer")
        tokenizer = load_tokenizer(self.config.weights("tokenizer"))[0].to(self.device)
        hashed, datasets = tokenizer_hash(self.config), self._datasets(data)
        with record_stage(self._device_independent(), "encode") as record:
            for dataset in datasets:
                with self.logger.progress(f"encode {dataset.meta.tasks[0]}", len(dataset.shards)) as bar:

                    def progress(done: int, _: int, bar: ProgressBar = bar) -> None:
                        bar.advance(done - bar.done)
                        record()

                    encode_dataset(tokenizer, hashed, dataset, progress, self.logger.info)

    def train_dynamics(self, data: Data | None = None) -> Dynamics:
        """Phase 1b: train the dynamics, unless it is finished."""
        return load_dynamics(self.train("dynamics", data))[0]

    def train_agent(self, data: Data | None = None, *, variant: str = "agent") -> WorldAndAgent:
        """Phase 2: train the agent, or one of its controls, unless it is finished.

        `best_demonstrations` clones only episodes of the expert without random actions. `no_world_model` starts from an
        untrained dynamics, whose layers are trained only by the agent's losses, on the same latents.
        """
        return load_world_and_agent(self.train(variant, data))[0]

    def train_imagination(self, data: Data | None = None, *, variant: str = "imagination") -> WorldAndAgent:
        """Phase 3: train in imagination, or its control `shuffled_rewards`, which permutes the rewards of a batch."""
        return load_world_and_agent(self.train(variant, data))[0]

    def train(self, name: str, data: Data | None = None) -> Path:
        """Train the stage `name` (one of `STAGES`), unless it is finished; returns the path of its weights."""
        if name not in STAGES:
            raise UserError(f"unknown stage {one_line(repr(name), 40)}: choose one of {', '.join(STAGES)}")
        datasets = self._datasets(data)  # first, because it sets the config's actions
        return make_weights(self.config, name, datasets, self.device, self.logger)

    def evaluate(self, data: Data | None = None, command: str = "") -> dict[str, Any]:
        """Measure all trained models; write `results.json` and the report's pictures, and return the results.

        A model that is not trained is skipped with a warning. An interrupted evaluation resumes. A complete one is
        repeated, unless a policy was trained since: then only that policy is measured. Results keep `command`.
        """
        check_upstream(self.config, "tokenizer")
        datasets = self._datasets(data)
        results = measure_run(self.config, datasets, self.device, self.logger, command)
        self.logger.lines(results_markdown(results))
        return results

    def evaluate_in_simulator(
        self, environment: str, servers: Sequence[str], policy: Simulated = "imagination", command: str = ""
    ) -> Mapping[str, Any]:
        """Play `policy` in a simulator's `environment` (KIND:NAME) on all `servers` (host:port); returns a summary."""
        simulated, name = simulator(environment)
        if policy != "random":
            stage = "agent" if policy == "cloning" else policy
            check_upstream(self.config, "tokenizer", stage)
            log_sampling_differences(self.config, [stage], self.logger)
        kept = self._device_independent() if policy == "random" else self.config
        with record_stage(kept, f"evaluate-{name}"):
            return simulated.play(self.config, name, servers, policy, self.logger, command, self.device)

    def report(self) -> Path:
        """Write the run's report, one HTML page, and return its path. Phases that have not run are left out."""
        if not config_path(self.config.run_dir).exists():
            raise UserError(f"no run in {self.config.run_dir}: start one with `embody run`, or use another --name")
        path = write_report(self.config.run_dir)
        self.logger.info(f"report: {path}")
        return path

    def ablate(self, steps: int, seeds: int, command: str = "") -> Path:
        """Train the paper's cascade on this run's latents; writes `ablation.json`, returns the path of `cascade.md`."""
        tokenizer = load_tokenizer(self.config.weights("tokenizer"))[0].to(self.device)
        datasets, config = self._datasets(None), self.config
        machine = machine_line(self.device, config.precision)
        made_by = {"command": command, "machine": machine, "date": time.strftime("%Y-%m-%d")}
        # Its metrics have their own folder, apart from the run's.
        logger = LoggerManager(config.run_dir / "ablation", Path(config.logs_dir), f"{config.name}-ablation")
        hashed = tokenizer_hash(config)
        path = ablate(config, tokenizer, hashed, datasets, logger, steps=steps, seeds=seeds, made_by=made_by)
        logger.lines(path.read_text())
        logger.close()
        return path

    def run(self, command: str = "") -> None:
        """All phases, from collecting to the report. Demonstrations are collected only if `is_collected(config)`."""
        if not self.config.weights("tokenizer").exists() and not self.config.world:
            load_lpips(self.config)  # raises now, not after collecting, if the weights of LPIPS are missing
        if not self.config.weights("imagination").exists():
            check_writable(self.config.weights("imagination").parent)
        if is_collected(self.config):
            self.collect()
        if not self.config.weights("tokenizer").exists():  # then every dataset is encoded after the first training
            for dataset in open_datasets(self.config):
                check_writable(dataset.root / "latents")
        if not self.config.world:
            self.train_tokenizer()
        self.encode()
        if not self.config.world:
            self.train_dynamics()
        self.train_agent()
        self.train_imagination()
        for control in CONTROLS if self.config.evaluation.full else ():
            self.train(control)
        self.evaluate(command=command)
        self.report()

    # --- shared by the phases ---------------------------------------------------------------------------------------

    def _datasets(self, data: Data | None) -> list[Dataset]:
        """The datasets that a phase reads; the config takes over their actions."""
        self.config, datasets = inputs(self.config, data, self.logger)
        return datasets

    def _device_independent(self) -> Config:
        """The config to store before training: a precision that was chosen for this device goes back to "auto"."""
        return dataclasses.replace(self.config, precision="auto") if self._chose_precision else self.config


def _device(config: Config) -> torch.device:
    """The device of `config`; a `UserError` if it asks for a GPU and torch sees none."""
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("device cuda: torch sees no GPU: use --device cpu, or install a torch built for your GPU")
    return torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")
