"""`results.json` of a run: reading, writing, what it is held against, and as a Markdown table."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embody.errors import UserError
from embody.metrics.rates import rate
from embody.metrics.rollouts import SHOWN
from embody.metrics.sections import Table
from embody.saving.atomic_write import atomic_write

__all__ = [
    "POLICIES",
    "Results",
    "TARGETS",
    "Target",
    "against_cloning",
    "decibels",
    "dream_quality",
    "dreamt_returns",
    "dreamt_rewards",
    "duration",
    "interval",
    "lookup",
    "markdown",
    "percent",
    "probability",
    "read_results",
    "results_table",
    "short_task",
    "success_table",
    "tasks_of",
    "write_results",
    "write_results_page",
]

Results = Mapping[str, Any]

_MANY = 6  # tasks that fit side by side

POLICIES = {  # in the order in which they are shown
    "random": "random",
    "demonstrations": "demonstrations",
    "cloning": "cloning",
    "cloning_plain": "cloning without a world model",
    "cloning_best": "cloning of the best",
    "imagination": "imagination",
    "shuffled": "imagination, rewards shuffled",
}


def lookup(results: Results, key: str) -> Any:
    """The value at a dotted key such as `success.cloning.mean`; None where it is missing."""
    value: Any = results
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def write_results(path: Path, results: Results) -> None:
    """Write JSON aside, then rename. NaN and infinity become null, numpy values plain ones."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; a `UserError` names a file that is not one."""
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); run the evaluation again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object; run the evaluation again")
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- targets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A headline number and what the default preset is asked to reach; runs of other families have no bounds."""

    title: str
    key: str
    show: Callable[[Any], str]
    bound: Callable[[Results], float | None] = lambda _: None  # None: no target, or nothing to compare with
    relation: str = "at least"  # or "above", "at most"
    reason: str = ""  # what the bound is, if not a plain number

    def reached(self, results: Results) -> bool | None:
        """Whether the value meets its bound; None if either is missing."""
        value, bound = lookup(results, self.key), self._bound_of(results)
        if value is None or bound is None:
            return None
        meets = {"at least": value >= bound, "above": value > bound, "at most": value <= bound}
        return bool(meets[self.relation])

    def text(self, results: Results) -> str:
        """The target in words, empty if there is none."""
        bound = self._bound_of(results)
        return "" if bound is None else f"{self.relation} {self.show(bound)}{self.reason and f' ({self.reason})'}"

    def _bound_of(self, results: Results) -> float | None:
        return self.bound(results) if lookup(results, "family") in (None, "minigrid") else None


def _fixed(bound: float) -> Callable[[Results], float | None]:
    return lambda _: bound


def _times(key: str, factor: float = 1.0) -> Callable[[Results], float | None]:
    def bound(results: Results) -> float | None:
        value = lookup(results, key)
        return None if value is None else factor * value

    return bound


def decibels(value: float) -> str:
    return f"{value:.1f} dB"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _three(value: float) -> str:
    """`0.914`, `0.00213`: three figures."""
    return f"{value:.3g}"


def probability(p: float) -> str:
    """A p of a test: `0.034`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _plain_number(value: float) -> str:
    return f"{value:.2f}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _wall_limit(results: Results) -> float:
    return 5400 if lookup(results, "success.shuffled") else 1800  # only --full runs the control


DOOR_KEY = "tasks.MiniGrid-DoorKey-6x6-v0.mean"
TARGETS = (
    Target("Tokenizer, PSNR", "tokenizer.psnr_db", decibels, _fixed(30)),
    Target("Tokenizer, cells right", "tokenizer.cell_accuracy", percent, _fixed(0.97)),
    Target("Dynamics, gain over copy-last-frame", "dynamics.gain_over_copy_db", decibels, _fixed(2), reason="h 1-10"),
    Target("Dynamics, changed cells right at h 10", "dynamics.changed_cell_accuracy_h10", percent, _fixed(0.65)),
    Target("The gain before the agent's training", "dynamics_before_agent.gain_over_copy_db", decibels),
    Target("Changed cells before the agent's training", "dynamics_before_agent.changed_cell_accuracy_h10", percent),
    Target("Dynamics, action-shuffle ratio", "dynamics.action_shuffle_ratio", _plain_number, _fixed(1.3)),
    Target("The same, each frame at a level of its own", "dynamics.action_shuffle_ratio_noised", _plain_number),
    Target("Rewards, recall", "dynamics.reward_recall", percent),
    Target("Rewards, precision", "dynamics.reward_precision", percent),
    Target(
        "Cloning, success", "success.cloning.mean", percent, _times("success.random.mean", 2), reason="twice random"
    ),
    Target(
        "Imagination, success", "success.imagination.mean", percent, _times("success.cloning.mean"), reason="cloning"
    ),
    Target(
        "Imagination, success on DoorKey",
        f"success.imagination.{DOOR_KEY}",
        percent,
        _times(f"success.cloning.{DOOR_KEY}"),
        "above",
        "cloning",
    ),
    Target(
        "Shuffled rewards, success",
        "success.shuffled.mean",
        percent,
        _times("success.cloning.mean"),
        "at most",
        "cloning",
    ),
    Target("Wall time", "wall_seconds", duration, _wall_limit, "at most"),
)


# --- Markdown -------------------------------------------------------------------------------------------------------


def results_table(results: Results) -> str:
    """Markdown: headline numbers against their targets, success by task with 95% intervals, and the demonstrations."""
    parts = [
        *(
            _headlines(results),
            _markdown(success_table(results)),
            _markdown(against_cloning(results)),
            _by_noise(results),
        ),
        *(_markdown(dream_quality(results)), _horizon(results)),
        *(_markdown(dreamt_rewards(results)), _markdown(dreamt_returns(results))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_results_page(path: Path, results: Results) -> None:
    """The table as a Markdown page, with what it takes to make it again: command, seed, machine, date, times."""
    seconds = results.get("stage_seconds", {})
    machine = ", ".join(f"{key} {value}" for key, value in results.get("machine", {}).items())
    versions = ", ".join(f"{key} {value}" for key, value in results.get("versions", {}).items())
    stages = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
    page = [
        f"# Results of `{results.get('command')}`",
        f"Made by that command on {results.get('date')}, seed {results.get('seed')}. Machine: {machine}. {versions}.",
        f"Peak memory {results.get('peak_memory_gib', 0.0):.2f} GiB. Wall time by stage: {stages}.",
        results_table(results),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(page), encoding="utf-8")


def _markdown(table: Table) -> str:
    return markdown(*table) if table[1] else ""


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _headlines(results: Results) -> str:
    rows = []
    for target in TARGETS:
        value = lookup(results, target.key)
        if value is not None:
            verdict = {True: "yes", False: "**no**", None: ""}[target.reached(results)]
            rows.append([target.title, target.show(value), target.text(results), verdict])
    return markdown(["measure", "value", "target", "reached"], rows) if rows else ""


def tasks_of(results: Results) -> list[str]:
    """All tasks that any policy played, in the order of the first mention."""
    policies = (lookup(results, "success") or {}).values()
    return list(dict.fromkeys(task for policy in policies for task in policy.get("tasks", {})))


def short_task(task: str) -> str:
    """`MiniGrid-DoorKey-6x6-v0` -> `DoorKey-6x6`."""
    return task.removeprefix("MiniGrid-").removeprefix("BabyAI-").removesuffix("-v0")


def interval(value: Mapping[str, Any] | None) -> str:
    """`62.0% (52-71)`, a dash if there is none."""
    return f"{percent(value['mean'])} ({100 * value['low']:.0f}-{100 * value['high']:.0f})" if value else "-"


def success_table(results: Results) -> Table:
    """A row a policy; where tasks are many, a row a task, below those of what an episode comes to in all."""
    tasks = tasks_of(results)
    found = {policy: value for policy in POLICIES if (value := lookup(results, f"success.{policy}"))}
    if not found:
        return [], []
    rows = [
        [
            POLICIES[policy],
            interval(value),
            *(interval(value.get("tasks", {}).get(task)) for task in tasks),
            str(value.get("episodes", "")),
        ]
        for policy, value in found.items()
    ]
    table = [["success (95% interval)", "mean", *map(short_task, tasks), "episodes"], *rows]
    if len(tasks) > _MANY:
        header, mean, *others = (list(line) for line in zip(*table, strict=True))
        table = [header, mean, *_of_episodes(found), *others]
    return table[0], table[1:]


def _of_episodes(found: Mapping[str, Any]) -> list[list[str]]:
    """What an episode comes to in all, a column a policy."""
    shown: Mapping[str, tuple[str, Callable[[Any], str]]] = {
        "score": ("Crafter score (95% interval over episodes)", lambda v: _between(v, ".1f")),
        "return": ("achievements an episode", lambda v: _between(v, ".2f")),
        "length": ("steps an episode", "{:.0f}".format),
        "died": ("died", percent),
        "reward": ("Crafter's reward", "{:.1f}".format),
    }
    return [
        [title, *(show(value[key]) if key in value else "-" for value in found.values())]
        for key, (title, show) in shown.items()
        if any(key in value for value in found.values())
    ]


def _between(value: Mapping[str, float], form: str) -> str:
    return f"{value['mean']:{form}} ({value['low']:{form}}-{value['high']:{form}})"


def _by_noise(results: Results) -> str:
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    rows = [[_quality(noise), interval(value), str(value["episodes"])] for noise, value in levels.items()]
    return markdown(["random actions in the demonstrations", "success", "episodes"], rows) if rows else ""


def _quality(noise: str) -> str:
    return "of whatever noise, for something else" if noise == "mistaken" else percent(float(noise))


def against_cloning(results: Results) -> Table:
    """Success of other policies minus cloning's on the same episodes, with its interval, and p of its sign."""
    rows = []
    for policy, title in POLICIES.items():
        found = lookup(results, f"against_cloning.{policy}")
        if found:
            value, low, high = (f"{100 * found[key]:+.1f}" for key in ("value", "low", "high"))
            rows.append([title, f"{value} ({low} to {high})", probability(found["p"])])
    return ["success minus cloning's, points (95% interval over episodes)", "mean", "p"], rows


# --- the world model, in tables -------------------------------------------------------------------------------------

_QUALITY: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "psnr_db": ("PSNR (higher is better)", decibels),
    "ssim": ("SSIM (higher is better)", _three),
    "lpips": ("LPIPS (lower is better)", _three),
    "frechet": ("Frechet distance of random features (lower is better)", _three),
}


def dream_quality(results: Results) -> Table:
    """Imagined frames against real ones over horizons 1-10, beside copies of the last frame, and before phase 2."""
    world, before = lookup(results, "dynamics") or {}, lookup(results, "dynamics_before_agent") or {}
    rows = []
    for key, (title, show) in _QUALITY.items():
        if key in world:
            values = world[key], world.get(f"copy_{key}"), before.get(key)
            cells = ["-" if value is None else show(value) for value in values]
            if key == "lpips" and values[0] is None:
                cells[0] = "not measured: needs `embody weights lpips`, frames of 32x32"
            rows.append([title, *cells])
    return ["horizons 1-10", "imagined", "copy of the last frame", "imagined, before the agent's training"], rows


def dreamt_rewards(results: Results) -> Table:
    """Whether what is dreamt to be achieved is achieved, task by task, with Wilson intervals."""
    found = lookup(results, "dynamics.rewards_within") or {}
    every = {**(found.get("tasks") or {}), "all": found} if found else {}
    rows = []
    for task, value in every.items():
        cells = [_share(value[key], value[of]) for key, of in (("recall", "rewards"), ("precision", "predicted"))]
        rows.append([short_task(task), cells[0], str(value["rewards"]), cells[1], str(value["predicted"])])
    title = f"rewards in dreams, within {found.get('tolerance')} frames"
    return [title, "recall (95% interval)", "real", "precision (95% interval)", "dreamt"], rows


def _share(value: float | None, n: int) -> str:
    return "-" if value is None else interval(dataclasses.asdict(rate(round(value * n), n)))


def dreamt_returns(results: Results) -> Table:
    """Imagined returns and values of held-out contexts against what was recorded."""
    found = lookup(results, "dynamics.returns") or {}
    rows = []
    for key, title in (("imagined", "imagined under the recorded actions"), ("value", "value head")) if found else ():
        value = found[key]
        correlation = "-" if value["correlation"] is None else _plain_number(value["correlation"])
        rows.append([title, correlation, f"{value['mean_error']:+.3f}", f"{value['mean_absolute_error']:.3f}"])
    about = f"returns of {found.get('contexts')} contexts, recorded mean {found.get('recorded_mean', 0):.3f}"
    return [about, "correlation", "mean error", "mean absolute error"], rows


HORIZON: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "psnr_db": ("PSNR, imagined", decibels),
    "copy_psnr_db": ("PSNR, copy", decibels),
    "cell_accuracy": ("cells right, imagined", percent),
    "copy_cell_accuracy": ("cells right, copy", percent),
    "changed_cell_accuracy": ("changed cells right, imagined", percent),
    "ssim": ("SSIM, imagined", _three),
    "copy_ssim": ("SSIM, copy", _three),
    "lpips": ("LPIPS, imagined", _three),
    "copy_lpips": ("LPIPS, copy", _three),
    "frechet": ("Frechet distance, imagined", _three),
    "copy_frechet": ("Frechet distance, copy", _three),
    "rollouts": ("rollouts", str),
}


def _horizon(results: Results) -> str:
    found = {key: lookup(results, f"dynamics.horizon.{key}") or [] for key in HORIZON}
    columns = {key: values for key, values in found.items() if any(value is not None for value in values)}
    length = max(map(len, columns.values()), default=0)
    shown = [h for h in SHOWN if h <= length]
    rows = []
    for key, values in columns.items():
        title, show = HORIZON[key]
        rows.append([title, *("-" if h > len(values) or values[h - 1] is None else show(values[h - 1]) for h in shown)])
    return markdown(["horizon (frames)", *map(str, shown)], rows) if rows else ""
