"""The results of a run as tables, in Markdown and for the report."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embody.games import game
from embody.games.trials import GameEvaluation
from embody.metrics.horizons import by_horizon
from embody.metrics.rates import rate
from embody.metrics.results_file import Results, lookup
from embody.metrics.sections import Table
from embody.metrics.tables import (
    decibels,
    duration,
    interval,
    markdown,
    percent,
    probability,
    short_task,
    three_figures,
    two_decimals,
)
from embody.saving.atomic_write import atomic_write

__all__ = [
    "POLICIES",
    "against_cloning",
    "dream_quality",
    "dreamt_returns",
    "dreamt_rewards",
    "evaluation_of",
    "results_table",
    "success_table",
    "tasks_of",
    "write_results_page",
]

_MANY = 6  # tasks that fit side by side

POLICIES = {  # in the order in which they are shown
    "random": "random",
    "demonstrations": "demonstrations",
    "cloning": "cloning",
    "no_world_model": "cloning, no world model",
    "best_demonstrations": "cloning, best demonstrations",
    "imagination": "imagination",
    "shuffled_rewards": "imagination, shuffled rewards",
}


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
        *(_markdown(dream_quality(results)), _markdown(by_horizon(results, _HORIZON))),
        *(_markdown(dreamt_rewards(results)), _markdown(dreamt_returns(results))),
        *(_markdown(table) for section in evaluation_of(results).sections(results) for table in section.tables),
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


def _headlines(results: Results) -> str:
    rows = []
    for target in evaluation_of(results).targets:
        value = lookup(results, target.key)
        if value is not None:
            verdict = {True: "yes", False: "**no**", None: ""}[target.reached(results)]
            rows.append([target.title, target.show(value), target.text(results), verdict])
    return markdown(["measure", "value", "target", "reached"], rows) if rows else ""


def evaluation_of(results: Results) -> GameEvaluation:
    """That of the game that the results are of."""
    return game(lookup(results, "game") or "none").evaluation()


def tasks_of(results: Results) -> list[str]:
    """All tasks that any policy played, in the order of the first mention."""
    policies = (lookup(results, "success") or {}).values()
    return list(dict.fromkeys(task for policy in policies for task in policy.get("tasks", {})))


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
        table = [header, mean, *others]
    return table[0], table[1:]


def _by_noise(results: Results) -> str:
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    rows = [[_quality(noise), interval(value), str(value["episodes"])] for noise, value in levels.items()]
    return markdown(["random actions in the demonstrations", "success", "episodes"], rows) if rows else ""


def _quality(noise: str) -> str:
    return "off-task, at any noise level" if noise == "off_task" else percent(float(noise))


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
    "ssim": ("SSIM (higher is better)", three_figures),
    "lpips": ("LPIPS (lower is better)", three_figures),
    "frechet": ("Frechet distance of random features (lower is better)", three_figures),
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
        correlation = "-" if value["correlation"] is None else two_decimals(value["correlation"])
        rows.append([title, correlation, f"{value['mean_error']:+.3f}", f"{value['mean_absolute_error']:.3f}"])
    title = f"returns of {found.get('contexts')} contexts, recorded mean {found.get('recorded_mean', 0):.3f}"
    return [title, "correlation", "mean error", "mean absolute error"], rows


_HORIZON: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "psnr_db": ("PSNR, imagined", decibels),
    "copy_psnr_db": ("PSNR, copy", decibels),
    "ssim": ("SSIM, imagined", three_figures),
    "copy_ssim": ("SSIM, copy", three_figures),
    "lpips": ("LPIPS, imagined", three_figures),
    "copy_lpips": ("LPIPS, copy", three_figures),
    "frechet": ("Frechet distance, imagined", three_figures),
    "copy_frechet": ("Frechet distance, copy", three_figures),
    "rollouts": ("rollouts", str),
}
