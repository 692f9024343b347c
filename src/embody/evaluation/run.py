"""The evaluation of a run: tokenizer, world model, and success in the real environment."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embody.config import Config
from embody.data import Dataset, labelled_meta
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.evaluation.held_out import (
    Dreams,
    action_shuffle_ratios,
    dream_held_out,
    tokenizer_quality,
)
from embody.games import game
from embody.games.policy import RandomPolicy, TaskPolicy
from embody.games.trials import GameEvaluation
from embody.imagination import Player
from embody.logger_manager import LoggerManager
from embody.metrics.pictures import Film, action_captions, dream_gif, write_films, write_pairs
from embody.metrics.results_file import read_results, write_results
from embody.metrics.rewards import measure_returns
from embody.metrics.rollouts import measure
from embody.model import WorldAndAgent, fetched_lpips
from embody.saving.atomic_write import check_writable
from embody.tokenizer import Tokenizer

__all__ = ["FinishedParts", "evaluate_run"]

_EPISODES = 32  # validation episodes of each dataset that the tokenizer is measured on
_PAIRS = 24  # reconstructions in the report
_FILMS = 8  # dreams in the report
_DRIFT = (
    *("psnr_db", "gain_over_copy_db", "ssim", "frechet"),  # without LPIPS, which takes longer than all others
)
_FORMAT = 3  # format of the parts: parts of another format, which an older version measured, are not used
_FILMS_A_TASK = 2  # episodes of imagination in the report


def evaluate_run(
    config: Config,
    tokenizer: Tokenizer,
    tokenizer_hash: str,
    dynamics: Dynamics | None,
    policies: Mapping[str, WorldAndAgent],
    datasets: Sequence[Dataset],
    logger: LoggerManager,
    finished: "FinishedParts",
) -> dict[str, Any]:
    """Measure on held-out episodes and seeds, write pictures into the run's folder, and return the results.

    The world model that is measured is the one of the first policy, or `dynamics` if there is no policy. If there are
    both, `dynamics` is measured too, for the drift in phase 2. `finished` stores each part, so that an interrupted
    evaluation resumes. The game decides which episodes are played, and adds its own measures of frames. Plain videos
    are not dreamt, because their actions are unknown. Datasets without held-out episodes, or of a task that is not the
    run's, are left out; a `UserError` if none remains.
    """
    own = game(config.env.game).evaluation()
    datasets = _measured(config, own, datasets)
    pictures = config.run_dir / "pictures"
    check_writable(pictures)
    frame_measures = None if own.frame_measures is None else own.frame_measures(datasets)
    if not any(row.labelled for dataset in datasets for row in dataset.episodes("validation")):
        logger.warning("dreams are not measured: no held-out episode has actions")
        dynamics, policies = None, {}
    first = next(iter(policies.values()), None)
    world = first.dynamics if first else dynamics
    lpips = fetched_lpips(config, "alex")  # the variant that LPIPS' authors recommend for comparisons

    def measure_tokenizer() -> dict[str, Any]:
        values, (real, decoded) = tokenizer_quality(tokenizer, datasets, frame_measures, _EPISODES)
        chosen = np.linspace(0, len(real) - 1, _PAIRS).astype(int)
        write_pairs(pictures / "reconstructions.npz", real[chosen], decoded[chosen])
        return values

    def measure_world() -> dict[str, Any]:
        assert world is not None
        dreams = dream_held_out(config, tokenizer, first or world, datasets, tokenizer_hash)
        _keep_dreams(config, dreams)
        ratios = action_shuffle_ratios(config, world, datasets, tokenizer_hash)
        returns = {"returns": None if dreams.returns is None else measure_returns(dreams.returns)}
        return measure(dreams.rollouts, frame_measures, lpips) | ratios | returns

    def measure_pretrained() -> dict[str, Any]:
        assert dynamics is not None
        dreams = dream_held_out(config, tokenizer, dynamics, datasets, tokenizer_hash)
        values = measure(dreams.rollouts, frame_measures)
        return {key: values[key] for key in (*_DRIFT, *own.drift)}

    trials = None if own.trials is None else own.trials(config, datasets)
    makers = {
        name: partial(_policy, config, tokenizer, model, datasets) for name, model in _with_random(policies).items()
    }
    results: dict[str, Any] = {}
    with logger.progress("evaluate", 2 + len(makers) * (len(trials.names) if trials else 0)) as bar:
        results["tokenizer"] = finished.part("tokenizer", "", measure_tokenizer)
        bar.advance(1, note="tokenizer")
        if world is not None:
            results["dynamics"] = finished.part("dynamics", "", measure_world)
        if first is not None and dynamics is not None:
            results["dynamics_before_agent"] = finished.part("dynamics before the agent", "", measure_pretrained)
        bar.advance(1, note="dreams")
        if trials is None:
            return results
        found: dict[str, list[Any]] = {}
        for name, make_policy in makers.items():
            films = pictures if name == "imagination" else None
            found[name] = []
            for number, trial in enumerate(trials.names):
                play = partial(trials.play, number, make_policy, films)
                found[name].append(finished.part(name, trial, play))
                bar.advance(1, note=f"{name} {trial}")
    return results | trials.results(found)


class FinishedParts:
    """The parts of an evaluation that are measured, in a file, from which an interrupted evaluation resumes.

    A complete evaluation starts again, unless its models have changed: then only parts of changed models are measured.
    """

    def __init__(
        self, path: Path, digest: str, models: Mapping[str, str], on_part: Callable[[], None] = lambda: None
    ) -> None:
        """`digest` is of everything that measurements depend on but the models; `models` maps names to hashes.

        Parts with another digest or model are not used. `on_part` is called after each part.
        """
        found = read_results(path) if path.exists() else {}
        self._path, self._digest, self._models, self._on_part = path, f"{digest} {_FORMAT}", dict(models), on_part
        known: Any = found.get("models")
        parts: Any = found.get("parts")
        same: set[str] = set()
        if found.get("of") == self._digest and isinstance(known, Mapping) and isinstance(parts, Mapping):
            is_repeated = found.get("complete") and known == self._models
            same = {name for name, model in self._models.items() if not is_repeated and known.get(name) == model}
        self._parts: dict[str, dict[str, Any]] = {name: parts.get(name, {}) for name in same}

    def __len__(self) -> int:
        return sum(len(parts) for parts in self._parts.values())

    def part(self, model: str, name: str, measured: Callable[[], Any]) -> Any:
        """The part `name` of the measurements of `model`: the stored one, or `measured()`, which is then stored."""
        parts = self._parts.setdefault(model, {})
        if name not in parts:
            parts[name] = measured()
            self._write(complete=False)
            self._on_part()
        return parts[name]

    def complete(self) -> None:
        """Mark the evaluation as complete."""
        self._write(complete=True)

    def _write(self, complete: bool) -> None:
        stored = {"of": self._digest, "models": self._models, "complete": complete, "parts": self._parts}
        write_results(self._path, stored)


def _measured(config: Config, own: GameEvaluation, datasets: Sequence[Dataset]) -> list[Dataset]:
    held_out = [dataset for dataset in datasets if "validation" in dataset.splits]
    if own.one_task_a_dataset:
        held_out = [dataset for dataset in held_out if dataset.meta.tasks[0] in config.env.tasks]
    if not held_out:
        roots = ", ".join(str(dataset.root) for dataset in datasets)
        raise UserError(
            f"{roots} hold no held-out episode of {', '.join(config.env.tasks)}: collect with"
            " --collect.validation-episodes above 0, or import with a larger --validation-share"
        )
    return held_out


def _with_random(policies: Mapping[str, WorldAndAgent]) -> dict[str, WorldAndAgent | None]:
    return {"random": None, **policies}


def _policy(
    config: Config, tokenizer: Tokenizer, model: WorldAndAgent | None, datasets: Sequence[Dataset], number: int
) -> TaskPolicy:
    seed = config.seed * 1000 + number
    if model is None:
        return RandomPolicy(config.env.actions, np.random.default_rng(seed))
    context, meta = config.imagination.context, labelled_meta(datasets)
    words = meta.vocabulary, meta.labels
    return Player(tokenizer, model, *words, context=context, sampling=config.sampling, seed=seed)


def _keep_dreams(config: Config, dreams: Dreams) -> None:
    """Store the longest clips as films for the report and as `dream.gif`."""
    rollouts, given = dreams.rollouts, dreams.context.shape[1]
    longest = np.argsort(-rollouts.valid.sum(axis=1), kind="stable")[:_FILMS]
    real = np.concatenate([dreams.context, rollouts.real], axis=1)[longest]
    imagined = np.concatenate([dreams.context, rollouts.imagined], axis=1)[longest]
    films, names = [], game(config.env.game).action_names
    for row, real_row, imagined_row in zip(longest, real, imagined, strict=True):
        stop = given + int(rollouts.valid[row].sum())
        strips = {"real": real_row[:stop], "dream": imagined_row[:stop]}
        actions = dreams.actions[row, :stop]
        captions = action_captions(actions, names) if len(names) == actions.shape[1] else ("",) * stop
        films.append(Film("held-out episode", strips, captions, given))
    pictures = config.run_dir / "pictures"
    write_films(pictures / "dreams.npz", films)
    stop = given + int(rollouts.valid[longest].sum(axis=1).min())
    shown = min(3, given)  # context frames in the picture
    dream_gif(pictures / "dream.gif", real[:, given - shown : stop], imagined[:, given - shown : stop], given=shown)
