"""What a run achieved, as sections of tables: for `results.md`, the terminal and the report."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embody.evaluation.verdict import verdict
from embody.games import game
from embody.games.trials import GameEvaluation
from embody.metrics.horizons import by_horizon
from embody.metrics.policies import POLICIES, title_of
from embody.metrics.rates import rate
from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import NEAR
from embody.metrics.sections import Section, Table
from embody.metrics.tables import (
    decibels,
    duration,
    interval,
    listed,
    markdown,
    points,
    probability,
    short_task,
    three_figures,
    two_decimals,
)
from embody.saving.atomic_write import write_text

__all__ = [
    "evaluation_of",
    "noise_name",
    "policy_terms",
    "quality_terms",
    "results_markdown",
    "table_sections",
    "tasks_of",
    "write_results_page",
]

_MANY = 6  # at most this many tasks are columns of one table


def evaluation_of(results: Results) -> GameEvaluation:
    """The evaluation of the game that the results belong to."""
    return game(lookup(results, "game") or "none").evaluation()


# --- Markdown -------------------------------------------------------------------------------------------------------


def results_markdown(results: Results) -> str:
    """The verdict in words, the headline numbers beside their targets, and every section of tables."""
    found = verdict(results, evaluation_of(results).success)
    parts = [f"**{found.headline}.**", " ".join(found.details), _headlines(results)]
    for section in (*table_sections(results), *evaluation_of(results).sections(results)):
        if section.tables:
            terms = "\n".join(f"- **{term}**: {meaning}" for term, meaning in section.terms)
            parts += [f"## {section.title}", section.text, terms, *(markdown(*table) for table in section.tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_results_page(path: Path, results: Results) -> None:
    """`results_markdown` as a page that begins with the command, seed, machine, date and times of the run."""
    stages = {stage: duration(seconds) for stage, seconds in results.get("stage_seconds", {}).items()}
    page = [
        f"# Results of `{results.get('command')}`",
        f"Seed {results.get('seed')}, {results.get('date')}. Machine: {listed(results.get('machine', {}))}."
        f" Versions: {listed(results.get('versions', {}))}. Peak memory: {results.get('peak_memory_gib', 0.0):.2f} GiB."
        f" Wall time by stage: {listed(stages)}.",
        results_markdown(results),
    ]
    write_text(path, "\n\n".join(page))


def _headlines(results: Results) -> str:
    rows = []
    for target in evaluation_of(results).targets:
        value = lookup(results, target.key)
        if value is not None:
            reached = {True: "yes", False: "**no**", None: ""}[target.reached(results)]
            rows.append([target.title, target.show(value), target.text(results), reached])
    return markdown(["measure", "value", "target", "reached"], rows) if rows else ""


# --- sections -------------------------------------------------------------------------------------------------------


def table_sections(results: Results) -> list[Section]:
    """The tables that every game has; sections and tables without a row are left out."""
    tolerance = lookup(results, "dynamics.rewards_within.tolerance")
    sections = (
        Section(
            "Success in the real environment",
            "Share of held-out episodes in which a policy succeeds, with its 95% interval. The mean weighs all tasks,"
            " or achievements, alike. Differences to behaviour cloning are paired: both policies played the same"
            " episodes. p is the probability that chance alone gives a difference at least as large.",
            tables=(_success(results), _against_cloning(results), _by_noise(results)),
            terms=policy_terms(results),
        ),
        Section(
            "Quality of dreams",
            "Dreams take the actions of held-out recordings and are compared with their frames. The first dreamt frame"
            " is horizon 1. The copy repeats the last context frame.",
            tables=(_dream_quality(results), by_horizon(results, _HORIZON)),
            terms=quality_terms(results),
        ),
        Section(
            "Rewards in dreams",
            "Recall is the share of real rewards that the dream gives, too; precision is the share of dreamt rewards"
            f" that are real. A dreamt reward may be early or late by {tolerance} timesteps.",
            tables=(_dreamt_rewards(results),),
        ),
        Section(
            "Returns in dreams",
            "The discounted return of what follows a context: as recorded, as dreamt under the recorded actions, and as"
            " predicted by the value head. Errors are predictions minus recorded returns.",
            tables=(_dreamt_returns(results),),
        ),
    )
    filled = [replace(section, tables=tuple(table for table in section.tables if table[1])) for section in sections]
    return [section for section in filled if section.tables]


def tasks_of(results: Results) -> list[str]:
    """All tasks that any policy played, in the order in which they first appear."""
    policies = (lookup(results, "success") or {}).values()
    return list(dict.fromkeys(task for policy in policies for task in policy.get("tasks", {})))


def _success(results: Results) -> Table:
    """A row for each policy; with many tasks, a row for each task instead, and a column for each policy."""
    tasks = tasks_of(results)
    found = {policy: value for policy in POLICIES if (value := lookup(results, f"success.{policy}"))}
    rows = [
        [
            title_of(policy),
            interval(value),
            *(interval(value.get("tasks", {}).get(task)) for task in tasks),
            str(value.get("episodes", "")),
        ]
        for policy, value in found.items()
    ]
    table = [["success (95% interval)", "mean", *map(short_task, tasks), "episodes"], *rows]
    if rows and len(tasks) > _MANY:
        header, mean, *others = (list(line) for line in zip(*table, strict=True))
        table = [header, mean, *others]
    return table[0], table[1:]


def _against_cloning(results: Results) -> Table:
    rows = []
    for policy in POLICIES:
        found = lookup(results, f"against_cloning.{policy}")
        if found:
            value, low, high = (points(found[key]) for key in ("value", "low", "high"))
            rows.append([title_of(policy), f"{value} ({low} to {high})", probability(found["p"])])
    return ["success minus behaviour cloning's", "points (95% interval)", "p"], rows


def _by_noise(results: Results) -> Table:
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    rows = [[noise_name(noise), interval(value), str(value["episodes"])] for noise, value in levels.items()]
    return ["demonstrations, by share of random actions", "success (95% interval)", "episodes"], rows


def noise_name(noise: str) -> str:
    """How the demonstrator played, from a key of `by_noise`: a share of random actions, or off-task."""
    return "off-task (another goal)" if noise == "off_task" else f"{float(noise):.0%} random"


# --- dreams ---------------------------------------------------------------------------------------------------------

_QUALITY: Mapping[str, tuple[str, Callable[[Any], str], str]] = {
    "psnr_db": (
        "PSNR (higher is better)",
        decibels,
        "error of the pixels, pooled over frames: 6 dB more is half the root-mean-square error.",
    ),
    "ssim": (
        "SSIM (higher is better)",
        three_figures,
        "likeness of local brightness and structure; 1 for equal frames.",
    ),
    "lpips": (
        "LPIPS (lower is better)",
        three_figures,
        "distance in the features of an image classifier, close to what people see; 0 for equal frames. It needs"
        " `embody weights lpips` and frames of 32x32 pixels or more.",
    ),
    "frechet": (
        "Frechet distance of random features (lower is better)",
        three_figures,
        "distance between the set of all dreamt frames and the set of real ones; 0 for equal sets. The features come"
        " from a fixed random network, so the numbers compare runs of embody, not papers.",
    ),
}


def policy_terms(results: Results) -> tuple[tuple[str, str], ...]:
    """The measured policies, each with how it was made."""
    return tuple((p.title, p.meaning) for key, p in POLICIES.items() if lookup(results, f"success.{key}"))


def quality_terms(results: Results) -> tuple[tuple[str, str], ...]:
    """The measures of dreams, each in words."""
    world = lookup(results, "dynamics") or {}
    return tuple((title, meaning) for key, (title, _, meaning) in _QUALITY.items() if key in world)


def _dream_quality(results: Results) -> Table:
    """Over horizons 1-10: dreams, copies of the last frame, and dreams before phase 2."""
    world, before = lookup(results, "dynamics") or {}, lookup(results, "dynamics_before_agent") or {}
    rows = []
    for key, (title, show, _) in _QUALITY.items():
        if key in world:
            values = world[key], world.get(f"copy_{key}"), before.get(key)
            cells = ["-" if value is None else show(value) for value in values]
            if key == "lpips" and values[0] is None:
                cells[0] = "not measured"
            rows.append([title, *cells])
    return [f"horizons 1-{NEAR}", "dream", "copy of the last frame", "dream before the agent's training"], rows


def _dreamt_rewards(results: Results) -> Table:
    """A row for each task, with Wilson intervals."""
    found = lookup(results, "dynamics.rewards_within") or {}
    every = {**(found.get("tasks") or {}), "all": found} if found else {}
    rows = []
    for task, value in every.items():
        cells = [_share(value[key], value[of]) for key, of in (("recall", "rewards"), ("precision", "predicted"))]
        rows.append([short_task(task), cells[0], str(value["rewards"]), cells[1], str(value["predicted"])])
    return ["task", "recall (95% interval)", "real rewards", "precision (95% interval)", "dreamt rewards"], rows


def _share(value: float | None, n: int) -> str:
    return "-" if value is None else interval(dataclasses.asdict(rate(round(value * n), n)))


def _dreamt_returns(results: Results) -> Table:
    found = lookup(results, "dynamics.returns") or {}
    rows = []
    for key, title in (("imagined", "dream under the recorded actions"), ("value", "value head")) if found else ():
        value = found[key]
        correlation = "-" if value["correlation"] is None else two_decimals(value["correlation"])
        rows.append([title, correlation, f"{value['mean_error']:+.3f}", f"{value['mean_absolute_error']:.3f}"])
    about = f"{found.get('contexts')} contexts, mean recorded return {found.get('recorded_mean', 0):.3f}"
    return [about, "correlation", "mean error", "mean absolute error"], rows


_HORIZON: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "psnr_db": ("PSNR, dream", decibels),
    "copy_psnr_db": ("PSNR, copy", decibels),
    "ssim": ("SSIM, dream", three_figures),
    "copy_ssim": ("SSIM, copy", three_figures),
    "lpips": ("LPIPS, dream", three_figures),
    "copy_lpips": ("LPIPS, copy", three_figures),
    "frechet": ("Frechet distance, dream", three_figures),
    "copy_frechet": ("Frechet distance, copy", three_figures),
    "rollouts": ("dreams measured", str),
}
