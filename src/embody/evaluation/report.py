"""The report of a run: one HTML file that opens without a network."""

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.errors import UserError
from embody.evaluation.page import SCRIPT, STYLE
from embody.evaluation.results import (
    POLICIES,
    TARGETS,
    Table,
    against_cloning,
    decibels,
    dream_quality,
    dreamt_returns,
    dreamt_rewards,
    duration,
    lookup,
    read_results,
    short_task,
    success_table,
    tasks_of,
)
from embody.logger_manager import read_metrics
from embody.metrics.charts import Bar, Line, bar_chart, line_chart, smooth
from embody.metrics.pictures import Film, png, read_films, read_pairs
from embody.metrics.rollouts import NEAR
from embody.saving.atomic_write import atomic_write

__all__ = ["write_report"]

Values = Mapping[str, Any]

STYLES = {"random": "e", "demonstrations": "d", "cloning": "a", "cloning_best": "c", "imagination": "b"}
PICTURES = ("dream.gif",)  # have their own places
LOG_FROM = 30  # a curve whose largest value is so many times its smallest is drawn on a log scale


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from what the run has left there, and return its path.

    Reads `results.json`, `metrics.jsonl`, `config.json` and, in `pictures/`, `reconstructions.npz`, `dreams.npz`,
    `episodes-*.npz` (see `pictures.py`) and any other PNG or GIF. What is missing is said in a sentence. A `UserError`
    names a missing folder or a damaged file. Written aside, then renamed.
    """
    if not run_dir.is_dir():
        raise UserError(f"no run in {run_dir}: run `embody run` first, or name another run")
    results, config = (
        read_results(path) if path.exists() else {} for path in (run_dir / "results.json", run_dir / "config.json")
    )
    pictures = run_dir / "pictures"
    sections = [
        _header(run_dir, results, config),
        _section("Against the targets", _headlines(results), "No evaluation yet: results.json is missing."),
        _section("Dreams", _films([pictures / "dreams.npz"], DREAMS), "No imagined sequences were kept."),
        _section("Originals and reconstructions", _pairs(pictures / "reconstructions.npz"), "No images were kept."),
        _section("The world model against the horizon", _horizon(results), "The world model was not evaluated."),
        _section("Success in the real environment", _success(results), "No policy was evaluated."),
        _section(
            "Episodes in the real environment", _films(pictures.glob("episodes-*.npz"), EPISODES), "None were kept."
        ),
        _section("Training", _curves(run_dir / "metrics.jsonl"), "No curves: metrics.jsonl is missing or empty."),
        _section("Wall time", _times(results), "No times were kept."),
        _other_pictures(pictures),
        _section("Config", _config(config), "config.json is missing."),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>embody: {_text(run_dir.resolve().name)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main><script>{SCRIPT}</script></body></html>\n"
    )
    with atomic_write(run_dir / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return run_dir / "report.html"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, body: str, missing: str) -> str:
    return f"<section><h2>{title}</h2>{body or f'<p>{missing}</p>'}</section>"


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _header(run_dir: Path, results: Values, config: Values) -> str:
    rows = {
        "preset": config.get("preset"),
        "seed": results.get("seed", config.get("seed")),
        "command": results.get("command"),
        "machine": _listed(results.get("machine")),
        "versions": _listed(results.get("versions")),
    }
    facts = "".join(
        f"<tr><th>{name}</th><td class=text>{f'<code>{_text(value)}</code>' if name == 'command' else _text(value)}"
        for name, value in rows.items()
        if value not in (None, "")
    )
    return f"<header><h1>embody: {_text(run_dir.resolve().name)}</h1><table class=facts>{facts}</table></header>"


def _listed(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else value or ""


def _headlines(results: Values) -> str:
    tiles = []
    for target in TARGETS:
        value = lookup(results, target.key)
        if value is None:
            continue
        reached = target.reached(results)
        state, word = {True: ("yes", "reached"), False: ("no", "short"), None: ("", "")}[reached]
        goal = f"<em>{word}</em>: {_text(target.text(results))}" if word else "no target"
        tiles.append(
            f'<div class="tile {state}"><small>{_text(target.title)}</small><b>{target.show(value)}</b>'
            f"<small>{goal}</small></div>"
        )
    of = "Targets are those of the default preset. " if any(t.text(results) for t in TARGETS) else ""
    intro = f"<p>{of}Held-out episodes and seeds only.</p>"
    return f'{intro}<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


# --- pictures -------------------------------------------------------------------------------------------------------

DREAMS = (
    "The model is given the first frames and then only the actions; it imagines what follows from its own frames."
    " The real episode runs beside it. Shown are the clips that last longest of those that were measured."
)
EPISODES = "The agent after imagination. Sampled actions, unseen seeds; the first ones, not chosen."


def _films(paths: Iterable[Path], intro: str) -> str:
    films = [film for path in sorted(paths) if path.exists() for film in read_films(path)]
    if not films:
        return ""
    last = max(len(film.captions) for film in films) - 1
    controls = (
        '<div class="controls"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{last}" value="0" aria-label="slot"></div>'
    )
    shown = "".join(map(_film, films))
    return f'<p>{intro}</p><div class="player">{controls}<div class="films">{shown}</div></div>'


def _film(film: Film) -> str:
    sheet = _data_url("png", png(np.stack(list(film.strips.values()))))
    slots, height, width = next(iter(film.strips.values())).shape[:3]
    screens = "".join(
        f'<div class="screen" style="--strip:{i}"><div class="pixels" style="aspect-ratio:{width}/{height}"></div>'
        f"{_text(name)}</div>"
        for i, name in enumerate(film.strips)
    )
    return (
        f'<figure class="film {"single" if len(film.strips) == 1 else ""}" data-given="{film.given}"'
        f' data-captions="{_text(json.dumps(film.captions))}"'
        f' style="--sheet:url({sheet});--slots:{slots};--strips:{len(film.strips)};--t:0">'
        f'<figcaption>{_text(film.title)}</figcaption><div class="screens">{screens}</div>'
        '<div class="now"></div></figure>'
    )


def _pairs(path: Path) -> str:
    if not path.exists():
        return ""
    names = ("original", "reconstruction")
    images = "".join(
        "<div>"
        + "".join(f'<img alt="{name}" src="{_image(frame)}">' for name, frame in zip(names, pair, strict=True))
        + "</div>"
        for pair in zip(*read_pairs(path), strict=True)
    )
    return f'<p>Above the original, below what the tokenizer made of it.</p><div class="pairs">{images}</div>'


def _image(frame: NDArray[np.uint8]) -> str:
    return _data_url("png", png(frame[None, None]))


def _other_pictures(pictures: Path) -> str:
    found = sorted(p for p in pictures.glob("*") if p.suffix in (".png", ".gif") and p.name not in PICTURES)
    images = "".join(
        f'<figure><img alt="{_text(path.stem)}" src="{_data_url(path.suffix[1:], path.read_bytes())}">'
        f"<figcaption>{_text(path.stem.replace('_', ' '))}</figcaption></figure>"
        for path in found
    )
    return f'<section><h2>More pictures</h2><div class="pictures">{images}</div></section>' if images else ""


# --- charts ---------------------------------------------------------------------------------------------------------


def _horizon(results: Values) -> str:
    values: Values = lookup(results, "dynamics.horizon") or {}

    def lines(*chosen: tuple[str, str, str]) -> list[Line]:
        found = [(name, values[key], style) for key, name, style in chosen if values.get(key)]
        return [Line(name, range(1, len(y) + 1), y, style) for name, y, style in found]

    def both(title: str, key: str) -> str:
        pair = lines((key, "imagined", "b"), (f"copy_{key}", "copy of the last frame", "e"))
        # Those that are measured at some horizons only: no gaps between them.
        known = [[(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None] for line in pair]
        drawn = [
            replace(line, x=[x for x, _ in points], y=[y for _, y in points])
            for line, points in zip(pair, known, strict=True)
            if points
        ]
        return line_chart(title, drawn, axis)

    axis = "horizon, frames"
    charts = [
        line_chart(
            "PSNR, dB", lines(("psnr_db", "imagined", "b"), ("copy_psnr_db", "copy of the last frame", "e")), axis
        ),
        line_chart(
            "Cells right",
            lines(("cell_accuracy", "imagined", "b"), ("copy_cell_accuracy", "copy of the last frame", "e")),
            axis,
            show=lambda y: f"{y:.0%}",
        ),
        line_chart(
            "Changed cells right (a copy scores 0)",
            lines(("changed_cell_accuracy", "imagined", "b")),
            axis,
            show=lambda y: f"{y:.0%}",
            low=0,
        ),
        both("SSIM (1 is equal)", "ssim"),
        both("LPIPS (0 is equal)", "lpips"),
        both("Frechet distance of random features (0 is alike)", "frechet"),
    ]
    beyond = lookup(results, "dynamics.gain_over_copy_db_beyond")
    more = "" if beyond is None else f" Gain over the copy beyond horizon {NEAR}: {decibels(beyond)}."
    intro = f"<p>Closed loop on held-out episodes, from squared errors pooled over frames.{more}</p>"
    tables = "".join(_wide(table(results)) for table in (dream_quality, dreamt_rewards, dreamt_returns))
    return f'{intro}<div class="charts">{"".join(charts)}</div>{tables}' if any(charts) or tables else ""


def _wide(table: Table) -> str:
    return f'<div class="wide">{_table(*table)}</div>' if table[1] else ""


def _success(results: Values) -> str:
    found = {policy: value for policy in POLICIES if (value := lookup(results, f"success.{policy}"))}
    if not found:
        return ""
    tasks = tasks_of(results)
    charts = [_bars("Mean over tasks", found)]
    for task in tasks:
        played = {policy: value["tasks"][task] for policy, value in found.items() if task in value.get("tasks", {})}
        charts.append(_bars(short_task(task), played))
    levels = lookup(results, "success.demonstrations.by_noise") or {}
    if levels:
        names = {noise: noise if noise == "mistaken" else f"{float(noise):.0%} random" for noise in levels}
        bars = [Bar(names[noise], v["mean"], v["low"], v["high"], "d") for noise, v in levels.items()]
        charts.append(bar_chart("Demonstrations, by share of random actions", bars))
    intro = "<p>Bars: share of episodes that succeed. Whiskers and brackets: 95% Wilson intervals over episodes.</p>"
    tables = _wide(success_table(results)) + _wide(against_cloning(results))
    return f'{intro}<div class="charts">{"".join(charts)}</div>{tables}'


def _bars(title: str, rates: Mapping[str, Values]) -> str:
    names = {"cloning_best": "cloning, best", "cloning_plain": "cloning, plain"}
    bars = [
        Bar(names.get(policy, policy), v["mean"], v["low"], v["high"], STYLES.get(policy, "e"))
        for policy, v in rates.items()
    ]
    return bar_chart(title, bars)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curves(path: Path) -> str:
    """Losses of each stage in sight, its other metrics folded away."""
    stages: dict[str, dict[str, dict[float, float]]] = {}
    for line in read_metrics(path):
        for key, value in line.items():
            if key not in ("stage", "step", "time") and isinstance(value, int | float) and math.isfinite(value):
                stages.setdefault(str(line.get("stage")), {}).setdefault(key, {})[line.get("step", 0)] = value
    parts = []
    for stage, curves in stages.items():
        charts = {key: _curve(key, points) for key, points in curves.items() if len(points) > 1}
        losses = "".join(chart for key, chart in charts.items() if "loss" in key)
        others = "".join(chart for key, chart in charts.items() if "loss" not in key)
        parts.append(f'<h3>{_text(stage)}</h3><div class="charts">{losses}</div>' if charts else "")
        if others:
            parts.append(f'<details><summary>Other measures</summary><div class="charts">{others}</div></details>')
    intro = "<p>Faint: as logged. Strong: the mean over a window of 5% of the steps.</p>"
    return intro + "".join(parts) if parts else ""


def _curve(title: str, points: Mapping[float, float]) -> str:
    steps = sorted(points)
    raw = [points[step] for step in steps]
    log = min(raw) > 0 and max(raw) > LOG_FROM * min(raw)
    mean = [math.exp(y) for y in smooth([math.log(y) for y in raw])] if log else smooth(raw)
    lines = [Line("raw", steps, raw, "raw"), Line("smoothed", steps, mean, "a")]
    return line_chart(title, lines, "step", log=log)


def _times(results: Values) -> str:
    stages: Values = results.get("stage_seconds") or {}
    longest = max(stages.values(), default=0) or 1
    rows = "".join(
        f'<span>{_text(stage)}</span><i style="width:{100 * seconds / longest:.1f}%"></i>'
        f"<span>{duration(seconds)}</span>"
        for stage, seconds in stages.items()
    )
    total = results.get("wall_seconds")
    whole = "" if total is None else f"<p>{duration(total)} in all.</p>"
    return f'{whole}<div class="times">{rows}</div>' if rows or whole else ""


def _config(config: Values) -> str:
    if not config:
        return ""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = [("run", plain), *((key, value) for key, value in config.items() if isinstance(value, Mapping))]
    return "".join(
        f"<details><summary>{_text(name)}</summary><table>"
        + "".join(f"<tr><th>{_text(k)}</th><td class=text>{_text(v)}</td></tr>" for k, v in _flat(values))
        + "</table></details>"
        for name, values in tables
    )


def _flat(values: Values, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, json.dumps(value))]
    return rows
