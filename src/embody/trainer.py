"""The order of the phases and the evaluation, nothing else.

    tokenizer -> (encode) -> dynamics -> agent -> imagination -> evaluation -> report

Each phase works alone on what the one before left, skips what is finished, and goes on from its checkpoint.
"""

import contextlib
import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from embody.config import (
    ActionSpec,
    AgentConfig,
    AgentObjective,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    ImaginationConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    digest,
    from_dict,
    to_dict,
)
from embody.data import (
    Dataset,
    EpisodeRow,
    check_datasets,
    is_complete,
    labelled_meta,
    open_datasets,
    recorded_actions,
    write_json,
)
from embody.data.goal import goal_of
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.evaluation.cascade import ablate
from embody.evaluation.report import write_report
from embody.evaluation.results import results_table, write_results_page
from embody.evaluation.run import FinishedParts, evaluate_run
from embody.games import preset
from embody.games.minecraft.pipeline import Pipeline
from embody.games.minecraft.play import Simulated, evaluate_in_simulator
from embody.logger_manager import LoggerManager, ProgressBar
from embody.metrics.results_file import write_results
from embody.model import WorldAndAgent, load_dynamics, load_lpips, load_tokenizer, load_world_and_agent
from embody.recording import collect
from embody.recording.pipeline import dataset_of_pipeline
from embody.recording.workers import processes
from embody.run.memory import peak_memory_gib
from embody.saving.tensors import load_tensors, save_tensors, tensors_hash
from embody.tokenizer import Tokenizer
from embody.training.agent import AgentStage, EventsStage, RiskStage
from embody.training.dynamics import DynamicsStage
from embody.training.encode import encode_dataset
from embody.training.imagination import ImaginationStage
from embody.training.loop import Stage, train
from embody.training.precision import fastest_precision
from embody.training.tokenizer import DecoderStage, TokenizerStage

__all__ = ["Trainer"]

Data = Dataset | Sequence[Dataset] | Pipeline
Cloning = Literal["agent", "cloning_best", "cloning_plain"]  # phase 2, and its controls

_FOR_ALL_STAGES = ("context", "gamma")  # settings of imagination that the stages before it depend on


class Trainer:
    """Phases of one run; `data` is a dataset or several, by default those of the config's tasks, or what
    `minerl.data.make` returns: that becomes a dataset in the run's folder.

    Weights go to `models_dir/NAME`, checkpoints and results to `runs_dir/NAME`.
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
        for stage, epochs in (
            ("train_tokenizer", tokenizer_epochs),
            ("train_dynamics", dynamics_epochs),
            ("train_agent", agent_epochs),
        ):
            if epochs is not None:
                changed = dataclasses.replace(getattr(config, stage), epochs=epochs, steps=0)
                config = dataclasses.replace(config, **{stage: changed})
        self.device = _device(config)
        self.chosen = config.precision == "auto"
        if self.chosen:
            config = dataclasses.replace(config, precision=fastest_precision(self.device))
        self.config = config
        self.logger = logger or LoggerManager(config.run_dir, Path(config.logs_dir), config.name)

    # --- phases -----------------------------------------------------------------------------------------------------

    def collect(self) -> list[Dataset]:
        """Record the demonstrations of every task."""
        collect_config = self.config.collect
        total = len(self.config.env.tasks) * (collect_config.train_episodes + collect_config.validation_episodes)
        recorded = all(is_complete(self.config.dataset_dir(task)) for task in self.config.env.tasks)
        if recorded and not (self.config.run_dir / "config.json").exists():
            self._keep_config(open_still=True)
        timed = contextlib.nullcontext() if recorded else self._timed("collect", open_still=True)
        with timed as record, self.logger.progress("collect", total) as bar:
            done: dict[str, int] = {}

            def progress(task: str, episodes: int, _: int) -> None:
                bar.advance(episodes - done.get(task, 0), note=task)
                done[task] = episodes
                if record:
                    record()

            collect(self.config, progress)
        return open_datasets(self.config)

    def train_tokenizer(self, data: Data | None = None) -> Tokenizer:
        """Phase 1a."""
        self._must_own_world()
        datasets = self._datasets(data)
        about = self._about(datasets, None, "tokenizer", self._models("tokenizer"))
        path = self.config.weights("tokenizer")
        if not self._finished(path, about):
            with self._timed("tokenizer") as record:
                stage = TokenizerStage(self.config, datasets)
                self._train(stage, about, record)
                stage.model.set_latent_statistics(stage.some_frames().to(self.device))
                if stage.decoder_steps:
                    self._train(DecoderStage(stage), about, record)
                self._save(stage, path, about)
                self.config.checkpoint(DecoderStage.name).unlink(missing_ok=True)
        return load_tokenizer(path)[0]

    def encode(self, data: Data | None = None) -> None:
        """The datasets' latents, once."""
        self._must_fit("tokenizer")
        tokenizer, tokenizer_hash = self._tokenizer()
        datasets = self._datasets(data)
        with self._timed("encode", open_still=True) as record:
            for dataset in datasets:
                with self.logger.progress(f"encode {dataset.meta.tasks[0]}", len(dataset.shards)) as bar:

                    def progress(done: int, _: int, bar: ProgressBar = bar) -> None:
                        bar.advance(done - bar.done)
                        record()

                    encode_dataset(tokenizer.to(self.device), tokenizer_hash, dataset, progress)

    def train_dynamics(self, data: Data | None = None) -> Dynamics:
        """Phase 1b."""
        self._must_own_world()
        self._must_fit("tokenizer")
        datasets, (_, tokenizer_hash) = self._datasets(data), self._tokenizer()
        about = self._about(datasets, tokenizer_hash, "dynamics", self._models("dynamics"))
        path = self.config.weights("dynamics")
        if not self._finished(path, about):
            with self._timed("dynamics") as record:
                stage = DynamicsStage(self.config, datasets, tokenizer_hash)
                self._train(stage, about, record)
                self._save(stage, path, about)
        return load_dynamics(path)[0]

    def train_agent(self, data: Data | None = None, *, variant: Cloning = "agent") -> WorldAndAgent:
        """Phase 2, or one of its controls.

        `cloning_best` clones the expert's own episodes only; `cloning_plain` has no world model: a dynamics that was
        never trained lends its layers, which the agent's losses alone then train, on the same latents.
        """
        datasets = self._datasets(data)
        self._must_fit("tokenizer")
        config = _without_world(self.config) if variant == "cloning_plain" else self.config
        _, tokenizer_hash = self._tokenizer()
        if variant == "cloning_plain":
            torch.manual_seed(config.seed + 1)
            dynamics, upstream = Dynamics(config.dynamics, config.env.actions), None
        else:
            self._must_fit("dynamics")
            dynamics, upstream = load_dynamics(config.weights("dynamics"))
        models = {"actions": dynamics.actions, "dynamics": dynamics.config, "agent": config.agent}
        about = self._about(datasets, [tokenizer_hash, upstream], variant, models, config)
        path = config.weights(variant)
        if not self._finished(path, about):
            with self._timed(variant) as record:
                episodes = _by_expert_alone if variant == "cloning_best" else None
                stage = AgentStage(config, datasets, tokenizer_hash, dynamics, episodes, name=variant)
                self._train(stage, about, record)
                if stage.model.judges and variant == "agent":  # the controls do not dream
                    self._train(EventsStage(stage), about, record)
                    self._train(RiskStage(stage), about, record)
                self._save(stage, path, about)
                for later in (EventsStage, RiskStage):
                    self.config.checkpoint(later.name).unlink(missing_ok=True)
        return load_world_and_agent(path)[0]

    def train_imagination(self, data: Data | None = None, *, shuffled: bool = False) -> WorldAndAgent:
        """Phase 3; `shuffled` is the control in which imagined rewards are shuffled."""
        name = "shuffled" if shuffled else "imagination"
        datasets = self._datasets(data)
        self._must_fit("tokenizer", "dynamics", "agent")
        imagination = dataclasses.replace(self.config.imagination, shuffle_rewards=shuffled)
        config = dataclasses.replace(self.config, imagination=imagination)
        _, tokenizer_hash = self._tokenizer()
        model, upstream = load_world_and_agent(config.weights("agent"))
        model.to(self.device)
        models = {"actions": model.dynamics.actions, "dynamics": model.dynamics.config, "agent": model.agent.config}
        about = self._about(datasets, [tokenizer_hash, upstream], name, models, config)
        path = config.weights(name)
        if not self._finished(path, about):
            with self._timed(name) as record:
                stage = ImaginationStage(config, datasets, tokenizer_hash, model, name=name)
                self._train(stage, about, record)
                self._save(stage, path, about)
        return load_world_and_agent(path)[0]

    def evaluate(self, data: Data | None = None, command: str = "") -> dict[str, Any]:
        """Measure everything that is trained; writes `results.json` and the report's pictures.

        What is not trained is left out, and said so. An evaluation that was stopped goes on, and one that is complete
        is measured anew unless a policy has come: that alone is played then.
        """
        tokenizer, tokenizer_hash = self._tokenizer()
        datasets = self._datasets(data)
        config = self.config
        names = {"cloning": "agent", "imagination": "imagination"}
        if config.evaluation.full:
            names |= {name: name for name in ("cloning_best", "cloning_plain", "shuffled")}
        for name in ("dynamics", *names.values()):
            if not config.weights(name).exists():
                self.logger.warning(f"not measured: {name} is not trained (`embody train {name}`)")
        path = config.weights("dynamics")
        world = load_dynamics(path)[0].to(self.device) if path.exists() else None
        policies = {
            policy: load_world_and_agent(config.weights(name))[0].to(self.device)
            for policy, name in names.items()
            if config.weights(name).exists()
        }
        self._must_fit("tokenizer", "dynamics", *names.values(), if_there=True)
        hashes = {name: tensors_hash(model.state_dict()) for name, model in policies.items()}
        before = "" if world is None else tensors_hash(world.state_dict())
        models = {
            "tokenizer": tokenizer_hash,
            "dynamics": next(iter(hashes.values()), before),
            "dynamics before the agent": before,
            "random": "",
            **hashes,
        }
        # Not all of what models do is in their weights: how often they sample, what an agent may choose from.
        models_of = (config.dynamics, config.agent, config.dynamics_objective, config.agent_objective, config.sampling)
        parts = (config.evaluation, config.env, config.collect, config.imagination, config.schedule, *models_of)
        settings = [to_dict(part) for part in parts]
        data_used = [dataset.fingerprint for dataset in datasets]
        measured = digest([settings, config.seed, tokenizer_hash, data_used])
        path = config.run_dir / "evaluation.json"
        begun = len(FinishedParts(path, measured, models)) > 0
        with self._timed("evaluate", anew=not begun) as record:
            finished = FinishedParts(path, measured, models, record)
            tokenizer.to(self.device)
            results = evaluate_run(config, tokenizer, tokenizer_hash, world, policies, datasets, self.logger, finished)
        seconds = self._seconds()
        results |= {
            "wall_seconds": sum(seconds.values()),
            "stage_seconds": seconds,
            "peak_memory_gib": self._read("memory.json")["peak_gib"],
            "family": self.config.env.game,
            "seed": self.config.seed,
            "command": command,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "machine": {
                "cpu": _processor(),
                **_gpu(self.device),
                "cores": torch.get_num_threads(),
                "precision": self.config.precision,
            },
            "date": time.strftime("%Y-%m-%d"),
        }
        write_results(self.config.run_dir / "results.json", results)
        write_results_page(self.config.run_dir / "results.md", results)
        finished.complete()
        self.logger.info(results_table(results))
        return results

    def evaluate_in_simulator(
        self, environment: str, servers: Sequence[str], policy: Simulated = "imagination", command: str = ""
    ) -> dict[str, Any]:
        """`policy` on its way to the diamond in MineRL's `environment`, behind each of `servers` (host:port)."""
        if policy != "random":
            self._must_fit("tokenizer", "agent" if policy == "cloning" else policy)
        with self._timed(f"evaluate-{environment}", open_still=policy == "random"):
            return evaluate_in_simulator(self.config, environment, servers, policy, self.logger, command, self.device)

    def report(self) -> Path:
        """The run as one HTML page; what is not done yet is left out."""
        if not (self.config.run_dir / "config.json").exists():
            raise UserError(f"no run in {self.config.run_dir}: start one, or use another --name")
        path = write_report(self.config.run_dir)
        self.logger.info(f"report: {path}")
        return path

    def ablate(self, steps: int, seeds: int, command: str = "") -> Path:
        """The paper's cascade on this run's latents; `ablation.json` and `cascade.md` in the run, nothing else."""
        tokenizer, tokenizer_hash = self._tokenizer()
        datasets = self._datasets(None)
        config = self.config
        machine = (
            ", ".join([*_gpu(self.device).values(), _processor()])
            + f", {torch.get_num_threads()} cores, {config.precision}"
        )
        made = {"command": command, "machine": machine, "date": time.strftime("%Y-%m-%d")}
        # Its curves are not the run's.
        logger = LoggerManager(config.run_dir / "ablation", Path(config.logs_dir), f"{config.name}-ablation")
        path = ablate(
            config, tokenizer.to(self.device), tokenizer_hash, datasets, logger, steps=steps, seeds=seeds, made=made
        )
        logger.info(path.read_text())
        logger.close()
        return path

    def run(self, command: str = "") -> None:
        """Everything, from nothing to the report."""
        if not self.config.weights("tokenizer").exists() and not self.config.world:
            load_lpips(self.config)  # what is missing is said now, not after collecting
        self.collect()
        if not self.config.world:
            self.train_tokenizer()
        self.encode()
        if not self.config.world:
            self.train_dynamics()
        self.train_agent()
        self.train_imagination()
        if self.config.evaluation.full:
            self.train_agent(variant="cloning_best")
            self.train_agent(variant="cloning_plain")
            self.train_imagination(shuffled=True)
        self.evaluate(command=command)
        self.report()

    # --- shared by the phases ---------------------------------------------------------------------------------------

    def _datasets(self, data: Data | None) -> list[Dataset]:
        """What a phase reads; the run's actions become theirs."""
        if data is None:
            datasets = open_datasets(self.config)
        elif isinstance(data, Pipeline):
            env, root = self.config.env, self.config.run_dir / "data" / data.environment
            datasets = [dataset_of_pipeline(data, root, env.height, env.width, self.logger)]
        else:
            datasets = [data] if isinstance(data, Dataset) else list(data)
            check_datasets(self.config, datasets)
        self._act_by(recorded_actions(datasets))
        for dataset in datasets:
            if dataset.meta.fps != self.config.env.fps:
                self.logger.warning(
                    f"dataset {dataset.root} has {dataset.meta.fps} frames a second, the run {self.config.env.fps}:"
                    " what is learned of time will be the dataset's (--env.fps says so)"
                )
        return datasets

    def _act_by(self, actions: ActionSpec | None) -> None:
        """Take over the actions of recordings, where the preset's have not been changed; else they must be equal.

        Minecraft's presets have VPT's, MineRL 0.4.4 others for each kind of environment, and one's own data any.
        """
        own = self.config.env.actions
        if actions is None or actions == own:
            return
        if own != preset(self.config.preset).env.actions:
            raise UserError(
                f"the datasets have actions {actions.sizes}, the run {own.sizes}: use another --name, or other datasets"
            )
        self.config = self.config.acting_by(actions)
        self.logger.info(f"actions are those of the recordings: {len(actions.sizes)} factors {actions.sizes}")

    def _tokenizer(self) -> tuple[Tokenizer, str]:
        tokenizer, _ = load_tokenizer(self.config.weights("tokenizer"))
        return tokenizer, tensors_hash(tokenizer.state_dict())

    def _train(self, stage: Stage, about: dict[str, Any], record: Callable[[], None]) -> None:
        stage.model.to(self.device)
        stage.losses.to(self.device)
        train(
            stage,
            checkpoint=self.config.checkpoint(stage.name),
            about=about,
            logger=self.logger,
            precision=self.config.precision,
            seed=self.config.seed,
            recompute=self.config.recompute,
            compile=self.config.compile,
            on_checkpoint=record,
        )

    def _save(self, stage: Stage, path: Path, about: dict[str, Any]) -> None:
        save_tensors(path, stage.model.state_dict(), about)
        self.config.checkpoint(stage.name).unlink(missing_ok=True)

    def _about(
        self,
        datasets: Sequence[Dataset],
        upstream: Any,
        stage: str,
        models: dict[str, Any],
        config: Config | None = None,
    ) -> dict[str, Any]:
        """What a stage's weights depend on, kept with them: weights made otherwise are never taken for finished."""
        config = config or self.config
        weights = {"weights": config.data.weights} if config.data.weights else {}
        agent = models.get("agent")
        meta = labelled_meta(datasets)
        labels = {"labels": meta.labels} if agent is not None and goal_of(agent.goal).told_what_is_left else {}
        return json.loads(
            json.dumps(
                {
                    "models": {key: _plain(value) for key, value in models.items()},
                    **_settings(config, stage),
                    "variant": "" if stage in ("tokenizer", "dynamics") else stage,
                    "data": [dataset.fingerprint for dataset in datasets],
                    **weights,
                    "vocabulary": meta.vocabulary,
                    **labels,
                    "upstream": digest(upstream),
                    "seed": config.seed,
                    "precision": config.precision,
                }
            )
        )

    def _models(self, stage: str, config: Config | None = None) -> dict[str, Any]:
        """What the models of a stage are built of."""
        config = config or self.config
        if stage == "tokenizer":
            return {"frame": config.env.frame, "tokenizer": config.tokenizer}
        world = {"actions": config.env.actions, "dynamics": config.dynamics}
        return world if stage == "dynamics" else {**world, "agent": config.agent}

    def _must_own_world(self) -> None:
        name, world = self.config.name, self.config.world
        if world:
            raise UserError(f"{name} takes tokenizer and dynamics from {world}: train them there")

    def _must_fit(self, *stages: str, if_there: bool = False) -> None:
        """A `UserError` if finished weights that are built on were made with other settings than this config's.

        Their data may differ: a tokenizer can serve tasks that it was not trained on.
        """
        config = self.config
        for stage in stages:
            path = config.weights(stage)
            if if_there and not path.exists():
                continue
            of = _without_world(config) if stage == "cloning_plain" else config
            shuffled = dataclasses.replace(of.imagination, shuffle_rewards=stage == "shuffled")
            of = dataclasses.replace(of, imagination=shuffled)
            found, models = _made_with(path), self._models(stage, of)
            upstream = None if stage == "tokenizer" else self._upstream(stage)
            if upstream is not None and found["upstream"] != digest(upstream):
                raise UserError(
                    f"{path} was made from other weights than those that are here now (upstream differs): delete it to"
                    " train it anew"
                )
            wanted = {
                "models": {name: _plain(model) for name, model in models.items()},
                **_settings(of, stage),
                "seed": config.seed,
            }
            remedy = "leave those of finished stages as they were, delete it to train it anew, or use another --name"
            if config.world and stage in ("tokenizer", "dynamics"):
                del wanted["seed"]  # made by another run
                remedy = f"give those of run {config.world}, whose world it is"
            for part, value in json.loads(json.dumps(wanted)).items():
                if found.get(part) != value:
                    raise UserError(f"{path} was made with other settings ({part} differs): {remedy}")

    def _upstream(self, stage: str) -> Any:
        """What `stage` is made from, as `_about` is told; None if that is not there any more."""
        tokenizer_hash = self._tokenizer()[1]
        if stage == "dynamics":
            return tokenizer_hash
        if stage == "cloning_plain":
            return [tokenizer_hash, None]
        path = self.config.weights("agent" if stage in ("imagination", "shuffled") else "dynamics")
        return [tokenizer_hash, load_tensors(path)[1]] if path.exists() else None

    def _finished(self, path: Path, about: dict[str, Any]) -> bool:
        if not path.exists():
            return False
        found = _made_with(path)
        if found != about:
            different = next((key for key in about if found.get(key) != about[key]), "version")
            raise UserError(
                f"{path} was made with another config or data ({different} differs): delete it, or use another --name"
            )
        self.logger.info(f"{path} is finished")
        return True

    def _keep_config(self, open_still: bool) -> None:
        """Write the config into the run; `open_still`: what follows may run elsewhere, in that device's precision."""
        config = dataclasses.replace(self.config, precision="auto") if self.chosen and open_still else self.config
        write_json(self.config.run_dir / "config.json", to_dict(config))

    @contextlib.contextmanager
    def _timed(self, stage: str, anew: bool = False, open_still: bool = False) -> Iterator[Callable[[], None]]:
        """Write the config into the run; add the seconds spent to its record (or begin it anew), interrupted or not.

        Yields a function that records the seconds so far: called at checkpoints, a killed stage keeps them. An error
        puts the former config back: the next command must not start from one that cannot work.
        """
        path = self.config.run_dir / "config.json"
        before = path.read_bytes() if path.exists() else None
        self._keep_config(open_still)
        start, spent = time.monotonic(), 0.0 if anew else self._seconds().get(stage, 0.0)

        def record() -> None:
            seconds = self._seconds() | {stage: round(spent + time.monotonic() - start, 1)}
            write_json(self.config.run_dir / "seconds.json", seconds)
            workers = max(processes(self.config.collect.workers), self.config.workers)
            peak = max(peak_memory_gib(workers), self._read("memory.json").get("peak_gib", 0.0))
            write_json(self.config.run_dir / "memory.json", {"peak_gib": peak})

        try:
            yield record
        except Exception:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
            raise
        finally:
            record()

    def _seconds(self) -> dict[str, float]:
        return self._read("seconds.json")

    def _read(self, name: str) -> dict[str, float]:
        path = self.config.run_dir / name
        return json.loads(path.read_text()) if path.exists() else {}


def _made_with(path: Path) -> dict[str, Any]:
    """What weights depend on, with the settings that came after them: their defaults stand for what was done before.

    A `UserError` names the file if it has a setting that there is no more.
    """
    about = load_tensors(path)[1]
    try:
        models = {
            name: value if name == "frame" else _plain(from_dict(_MODELS[name], value))
            for name, value in about["models"].items()
        }
        training = _training(from_dict(StageConfig, about["training"]))
        objective = {name: to_dict(from_dict(_OBJECTIVES[name], of)) for name, of in about["objective"].items()}
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} was made by another version ({error}): delete it, or use another --name") from error
    return json.loads(json.dumps({**about, "models": models, "training": training, "objective": objective}))


_MODELS: dict[str, Any] = {
    "actions": ActionSpec,
    "tokenizer": TokenizerConfig,
    "dynamics": DynamicsConfig,
    "agent": AgentConfig,
}
_OBJECTIVES: dict[str, Any] = {
    "tokenizer": TokenizerObjective,
    "dynamics": DynamicsObjective,
    "agent": AgentObjective,
    "imagination": ImaginationConfig,
}


def _plain(value: Any) -> Any:
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def _settings(config: Config, stage: str) -> dict[str, Any]:
    """What the weights of `stage` depend on beside the architecture: training, objective, sampling."""
    dreams = to_dict(config.imagination)
    read = {"imagination": {name: dreams[name] for name in _FOR_ALL_STAGES}}
    match stage:
        case "tokenizer":
            objective = {"tokenizer": to_dict(config.tokenizer_objective)}
            return {"training": _training(config.train_tokenizer), "objective": objective, **read}
        case "dynamics":
            objective = {"dynamics": to_dict(config.dynamics_objective)}
            return {"training": _training(config.train_dynamics), "objective": objective, **read}
        case "imagination" | "shuffled":
            objective = {"agent": to_dict(config.agent_objective), "imagination": dreams}
            sampling = to_dict(config.sampling)
            return {
                "training": _training(config.train_imagination),
                "objective": objective,
                "sampling": sampling,
                **read,
            }
        case _:
            objective = {"dynamics": to_dict(config.dynamics_objective), "agent": to_dict(config.agent_objective)}
            return {"training": _training(config.train_agent), "objective": objective, **read}


def _training(stage: StageConfig) -> dict[str, Any]:
    """What weights depend on; the steps only where they are asked for, as the epochs hold otherwise."""
    left_out = ("checkpoint_every", "log_every", "epochs" if stage.steps else "steps")
    return {name: value for name, value in to_dict(stage).items() if name not in left_out}


def _device(config: Config) -> torch.device:
    """Where `config` has its models; `UserError` if a GPU is asked for and there is none."""
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UserError("device cuda: torch sees no GPU here: --device cpu, or a torch that is built for yours")
    return torch.device("cuda" if there and config.device != "cpu" else "cpu")


def _without_world(config: Config) -> Config:
    """The agent of cloning without a world model: it shares the dynamics' layers, and is all that they learn from."""
    alone = dataclasses.replace(config.agent_objective, dynamics_weight=0.0, heads_input="context", world_lr_scale=1.0)
    return dataclasses.replace(
        config, agent=dataclasses.replace(config.agent, own_weights=False), agent_objective=alone
    )


def _by_expert_alone(row: EpisodeRow) -> bool:
    return row.source == "expert" and row.noise == 0.0


def _gpu(device: torch.device) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
