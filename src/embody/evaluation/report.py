"""The report of a run: one HTML file that opens without a network.

What is shown is prepared here, as plain values; how it looks is `report.html.j2`, which inlines `report.css` and
`report.js`.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from embody.errors import UserError
from embody.evaluation.results import (
    POLICIES,
    against_cloning,
    dream_quality,
    dreamt_returns,
    dreamt_rewards,
    evaluation_of,
    success_table,
    tasks_of,
)
from embody.logger_manager import read_metrics
from embody.metrics.charts import Bar, Line, bar_chart, line_chart, smooth
from embody.metrics.pictures import Film, png, read_films, read_pairs
from embody.metrics.results_file import lookup, read_results
from embody.metrics.rollouts import NEAR
from embody.metrics.sections import Chart, Section, Table
from embody.metrics.tables import decibels, duration, short_task
from embody.saving.atomic_write import atomic_write

__all__ = ["write_report"]

Values = Mapping[str, Any]

STYLES = {"random": "e", "demonstrations": "d", "cloning": "a", "best_demonstrations": "c", "imagination": "b"}
PICTURES = ("dream.gif",)  # have their own places
NAMES = {name: name.replace("_", " ") for name in ("best_demonstrations", "no_world_model", "shuffled_rewards")}
LOG_FROM = 30  # a curve whose largest value is so many times its smallest is drawn on a log scale


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from what the run has left there, and return its path.

    Reads `results.json`, `metrics.jsonl`, `config.json` and, in `pictures/`, `reconstructions.npz`, `dreams.npz`,
    `episodes-*.npz` (see `pictures.py`) and any other PNG or GIF. What is missing is said in a sentence. A `UserError`
    names a missing folder or a damaged file. Written atomically.
    """
    if not run_dir.is_dir():
        raise UserError(f"no run in {run_dir}: run `embody run` first, or name another run")
    results, config = (
        read_results(path) if path.exists() else {} for path in (run_dir / "results.json", run_dir / "config.json")
    )
    pictures = run_dir / "pictures"
    pages = Environment(
        loader=PackageLoader("embody.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template("report.html.j2").render(
        name=run_dir.resolve().name,
        facts=_facts(results, config),
        headlines=_headlines(results),
        dreams=_films([pictures / "dreams.npz"]),
        pairs=_pairs(pictures / "reconstructions.npz"),
        world=_world(results),
        of_game=evaluation_of(results).sections(results),
        success=_success(results),
        episodes=_films(pictures.glob("episodes-*.npz")),
        stages=_stages(run_dir / "metrics.jsonl"),
        wall_time=duration(results["wall_seconds"]) if "wall_seconds" in results else "",
        times=_times(results),
        pictures=_other_pictures(pictures),
        config=_config(config),
    )
    with atomic_write(run_dir / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run_dir / "report.html"


def _facts(results: Values, config: Values) -> list[tuple[str, Any]]:
    facts = {
        "preset": config.get("preset"),
        "seed": results.get("seed", config.get("seed")),
        "command": results.get("command"),
        "machine": _listed(results.get("machine")),
        "versions": _listed(results.get("versions")),
    }
    return [(name, value) for name, value in facts.items() if value not in (None, "")]


def _listed(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else value or ""


def _headlines(results: Values) -> list[dict[str, Any]]:
    return [
        {
            "title": target.title,
            "value": target.show(value),
            "target": target.text(results),
            "reached": target.reached(results),
        }
        for target in evaluation_of(results).targets
        if (value := lookup(results, target.key)) is not None
    ]


# --- pictures -------------------------------------------------------------------------------------------------------


def _films(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [_film(film) for path in sorted(paths) if path.exists() for film in read_films(path)]


def _film(film: Film) -> dict[str, Any]:
    timesteps, height, width = next(iter(film.strips.values())).shape[:3]
    return {
        "title": film.title,
        "given": film.given,
        "captions": film.captions,
        "last": timesteps - 1,
        "strips": list(film.strips),
        "aspect": f"{width}/{height}",
        "sheet": _data_url("png", png(np.stack(list(film.strips.values())))),  # a row a strip, a column a timestep
    }


def _pairs(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    return [(_image(original), _image(decoded)) for original, decoded in zip(*read_pairs(path), strict=True)]


def _image(frame: NDArray[np.uint8]) -> str:
    return _data_url("png", png(frame[None, None]))


def _other_pictures(pictures: Path) -> list[tuple[str, str]]:
    found = sorted(p for p in pictures.glob("*") if p.suffix in (".png", ".gif") and p.name not in PICTURES)
    return [(path.stem.replace("_", " "), _data_url(path.suffix[1:], path.read_bytes())) for path in found]


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# --- charts and tables ----------------------------------------------------------------------------------------------


def _section(title: str, text: str, charts: Iterable[Chart | None], tables: Iterable[Table]) -> Section:
    """Of what there is; without any, a section of a title only."""
    drawn, filled = tuple(chart for chart in charts if chart), tuple(table for table in tables if table[1])
    return Section(title, text if drawn or filled else "", drawn, filled)


def _world(results: Values) -> Section:
    values: Values = lookup(results, "dynamics.horizon") or {}

    def lines(*chosen: tuple[str, str, str]) -> list[Line]:
        found = [(name, values[key], style) for key, name, style in chosen if values.get(key)]
        return [Line(name, range(1, len(y) + 1), y, style) for name, y, style in found]

    def both(title: str, key: str, gaps: bool = False) -> Chart | None:
        pair = lines((key, "imagined", "b"), (f"copy_{key}", "copy of the last frame", "e"))
        if not gaps:  # measured at some horizons only
            known = [[(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None] for line in pair]
            pair = [
                replace(line, x=[x for x, _ in points], y=[y for _, y in points])
                for line, points in zip(pair, known, strict=True)
            ]
        return line_chart(title, pair, axis)

    axis = "horizon, frames"
    charts = [
        both("PSNR, dB", "psnr_db", gaps=True),
        both("SSIM (1 is equal)", "ssim"),
        both("LPIPS (0 is equal)", "lpips"),
        both("Frechet distance of random features (0 is alike)", "frechet"),
    ]
    beyond = lookup(results, "dynamics.gain_over_copy_db_beyond")
    more = "" if beyond is None else f" Gain over the copy beyond horizon {NEAR}: {decibels(beyond)}."
    return _section(
        "The world model against the horizon",
        f"Closed loop on held-out episodes, from squared errors pooled over frames.{more}",
        charts,
        [table(results) for table in (dream_quality, dreamt_rewards, dreamt_returns)],
    )


def _success(results: Values) -> Section:
    found = {policy: value for policy in POLICIES if (value := lookup(results, f"success.{policy}"))}
    charts = [_bars("Mean over tasks", found)] if found else []
    for task in tasks_of(results):
        played = {policy: value["tasks"][task] for policy, value in found.items() if task in value.get("tasks", {})}
        charts.append(_bars(short_task(task), played))
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    if levels:
        names = {noise: "off-task" if noise == "off_task" else f"{float(noise):.0%} random" for noise in levels}
        bars = [Bar(names[noise], v["mean"], v["low"], v["high"], "d") for noise, v in levels.items()]
        charts.append(bar_chart("Demonstrations, by share of random actions", bars))
    return _section(
        "Success in the real environment",
        "Bars: share of episodes that succeed. Whiskers and brackets: 95% Wilson intervals over episodes.",
        charts,
        [success_table(results), against_cloning(results)],
    )


def _bars(title: str, rates: Mapping[str, Values]) -> Chart:
    return bar_chart(
        title,
        [
            Bar(NAMES.get(policy, policy), v["mean"], v["low"], v["high"], STYLES.get(policy, "e"))
            for policy, v in rates.items()
        ],
    )


def _stages(path: Path) -> list[tuple[str, list[Chart], list[Chart]]]:
    """Of each stage its name, its losses and its other metrics."""
    stages: dict[str, dict[str, dict[float, float]]] = {}
    for line in read_metrics(path):
        for key, value in line.items():
            if key not in ("stage", "step", "time") and isinstance(value, int | float) and math.isfinite(value):
                stages.setdefault(str(line.get("stage")), {}).setdefault(key, {})[line.get("step", 0)] = value
    found = []
    for stage, curves in stages.items():
        charts = {key: _curve(key, points) for key, points in curves.items() if len(points) > 1}
        losses = [chart for key, chart in charts.items() if "loss" in key]
        others = [chart for key, chart in charts.items() if "loss" not in key]
        if charts:
            found.append((stage, losses, others))
    return found


def _curve(title: str, points: Mapping[float, float]) -> Chart:
    steps = sorted(points)
    raw = [points[step] for step in steps]
    log = min(raw) > 0 and max(raw) > LOG_FROM * min(raw)
    mean = [math.exp(y) for y in smooth([math.log(y) for y in raw])] if log else smooth(raw)
    chart = line_chart(title, [Line("raw", steps, raw, "raw"), Line("smoothed", steps, mean)], "step", log=log)
    assert chart
    return chart


# --- times and settings ---------------------------------------------------------------------------------------------


def _times(results: Values) -> list[tuple[str, float, str]]:
    """Of each stage its name, its time as a share of the longest, and in words."""
    stages: Values = results.get("stage_seconds") or {}
    longest = max(stages.values(), default=0) or 1
    return [(stage, seconds / longest, duration(seconds)) for stage, seconds in stages.items()]


def _config(config: Values) -> list[tuple[str, list[tuple[str, str]]]]:
    if not config:
        return []
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    groups = [("run", plain), *((key, value) for key, value in config.items() if isinstance(value, Mapping))]
    return [(name, _flat(values)) for name, values in groups]


def _flat(values: Values, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, json.dumps(value))]
    return rows
