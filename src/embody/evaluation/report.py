"""The report of a run: one HTML file that opens without a network.

This module prepares what is shown as plain values. `report.html.j2` lays it out, and inlines `report.css` and
`report.js`.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from embody.errors import UserError
from embody.evaluation.results import (
    evaluation_of,
    noise_name,
    policy_terms,
    quality_terms,
    table_sections,
    tasks_of,
)
from embody.evaluation.verdict import verdict
from embody.logger_manager import read_metrics
from embody.metrics.charts import Bar, Line, bar_chart, line_chart, smooth
from embody.metrics.horizons import horizon_chart
from embody.metrics.pictures import Film, png, read_films, read_pairs
from embody.metrics.policies import POLICIES
from embody.metrics.results_file import lookup, read_results, showing
from embody.metrics.rollouts import NEAR
from embody.metrics.sections import Chart, Section
from embody.metrics.tables import decibels, duration, listed, short_task
from embody.saving.atomic_write import write_text

__all__ = ["write_report"]

Values = Mapping[str, Any]

SHOWN_ELSEWHERE = ("dream.gif",)  # the page's own player shows the same dreams
LOG_FROM = 30  # a curve is drawn on a log scale if its largest value is more than this many times its smallest


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from the files of the run, and return its path.

    Reads `results.json`, `metrics.jsonl`, `config.json` and, in `pictures/`, `reconstructions.npz`, `dreams.npz`,
    `episodes-*.npz` (see `pictures.py`) and any other PNG or GIF. The page says which of them are missing. A
    `UserError` names a missing folder or a damaged file. Written atomically.
    """
    if not run_dir.is_dir():
        raise UserError(f"no run in {run_dir}: run `embody run` first, or name another run")
    with showing(str(run_dir)):
        page = _page(run_dir)
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def _page(run_dir: Path) -> str:
    results, config = (
        read_results(path) if path.exists() else {} for path in (run_dir / "results.json", run_dir / "config.json")
    )
    pictures, own = run_dir / "pictures", evaluation_of(results)
    of_game = own.sections(results)
    pages = Environment(
        loader=PackageLoader("embody.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("report.html.j2").render(
        name=run_dir.resolve().name,
        verdict=verdict(results, own.success),
        command=results.get("command"),
        facts=_facts(results, config),
        dreams=_films([pictures / "dreams.npz"]),
        success=_success(results),
        episodes=_films(pictures.glob("episodes-*.npz")),
        charts_of_dreams=[_dreams(results), *(section for section in of_game if section.charts)],
        pairs=_pairs(pictures / "reconstructions.npz"),
        pictures=_other_pictures(pictures),
        stages=_stages(run_dir / "metrics.jsonl"),
        headlines=_headlines(results),
        tables=[*table_sections(results), *(section for section in of_game if section.tables)],
        wall_time=duration(results["wall_seconds"]) if "wall_seconds" in results else "",
        times=_times(results),
        config=_config(config),
    )


def _facts(results: Values, config: Values) -> list[str]:
    """What was run, in a few words each: preset, seed, date, time, machine, versions."""
    seed = results.get("seed", config.get("seed"))
    wall_seconds = results.get("wall_seconds")
    facts = (
        f"preset {config['preset']}" if config.get("preset") else "",
        "" if seed is None else f"seed {seed}",
        results.get("date", ""),
        "" if wall_seconds is None else duration(wall_seconds),
        listed(results.get("machine", {})),
        listed(results.get("versions", {})),
    )
    return [fact for fact in facts if fact]


def _headlines(results: Values) -> list[dict[str, Any]]:
    return [
        {
            "title": target.title,
            "value": target.show(value),
            "target": target.text(results),
            "reached": target.reached(results),
            "meaning": target.meaning,
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
        # One row for each strip, one column for each timestep.
        "sheet": _data_url("png", png(np.stack(list(film.strips.values())))),
    }


def _pairs(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    return [(_image(original), _image(decoded)) for original, decoded in zip(*read_pairs(path), strict=True)]


def _image(frame: NDArray[np.uint8]) -> str:
    return _data_url("png", png(frame[None, None]))


def _other_pictures(pictures: Path) -> list[tuple[str, str]]:
    """The PNGs and GIFs that nothing else shows. A link is left out: it could show a file from outside of the run."""
    found = sorted(p for p in pictures.glob("*") if p.suffix in (".png", ".gif") and p.name not in SHOWN_ELSEWHERE)
    found = [path for path in found if path.is_file() and not path.is_symlink() and not pictures.is_symlink()]
    return [(path.stem.replace("_", " "), _data_url(path.suffix[1:], path.read_bytes())) for path in found]


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# --- charts ---------------------------------------------------------------------------------------------------------


def _success(results: Values) -> Section:
    found = {policy: value for policy in POLICIES if (value := lookup(results, f"success.{policy}"))}
    charts = [_bars("Mean over tasks", found)] if found else []
    for task in tasks_of(results):
        played = {policy: value["tasks"][task] for policy, value in found.items() if task in value.get("tasks", {})}
        charts.append(_bars(short_task(task), played))
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    if levels:
        bars = [Bar(noise_name(noise), v["mean"], v["low"], v["high"], "d") for noise, v in levels.items()]
        charts.append(bar_chart("Demonstrations, by share of random actions", bars))
    text = "Bars: share of held-out episodes in which a policy succeeds. Whiskers: 95% intervals over these episodes."
    return Section("Success in the real environment", text, tuple(charts), terms=policy_terms(results))


def _bars(title: str, rates: Mapping[str, Values]) -> Chart:
    bars = [Bar(POLICIES[p].name, v["mean"], v["low"], v["high"], POLICIES[p].colour) for p, v in rates.items()]
    return bar_chart(title, bars)


def _dreams(results: Values) -> Section:
    charts = (
        horizon_chart(results, "PSNR, dB (higher is better)", "psnr_db"),
        horizon_chart(results, "SSIM (1 is equal)", "ssim", join=True),
        horizon_chart(results, "LPIPS (0 is equal)", "lpips", join=True),
        horizon_chart(results, "Frechet distance of random features (0 is equal)", "frechet", join=True),
    )
    text = (
        "The model gets the context, then continues on its own frames under the recorded actions of held-out episodes."
        " Horizon 1 is the first dreamt frame. The dashed line repeats the last context frame."
    )
    beyond = lookup(results, "dynamics.gain_over_copy_db_beyond")
    if beyond is not None:
        text += f" Beyond horizon {NEAR}, dreams gain {decibels(beyond)} over that copy."
    drawn = tuple(chart for chart in charts if chart)
    return Section("Dreams against the horizon", text, drawn, terms=quality_terms(results))


def _stages(path: Path) -> list[tuple[str, list[Chart], list[Chart]]]:
    """The name of each stage, the charts of its losses, and those of its other metrics."""
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
    """The name of each stage, its time as a share of the longest stage's, and its time in words."""
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
