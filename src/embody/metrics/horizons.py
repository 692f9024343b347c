"""Measures of dreamt frames at each horizon, as a table and as charts."""

from collections.abc import Callable, Mapping
from typing import Any

from embody.metrics.charts import Line, line_chart, number
from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import SHOWN
from embody.metrics.sections import Chart, Table

__all__ = ["by_horizon", "horizon_chart"]


def by_horizon(results: Results, measures: Mapping[str, tuple[str, Callable[[Any], str]]]) -> Table:
    """A row for each of `measures` (its key under `dynamics.horizon`: title and form) that has values."""
    found = {key: lookup(results, f"dynamics.horizon.{key}") or [] for key in measures}
    known = {key: values for key, values in found.items() if any(value is not None for value in values)}
    shown = [h for h in SHOWN if h <= max(map(len, known.values()), default=0)]
    rows = []
    for key, values in known.items():
        title, show = measures[key]
        rows.append([title, *("-" if h > len(values) or values[h - 1] is None else show(values[h - 1]) for h in shown)])
    return ["horizon (frames)", *map(str, shown)], rows


def horizon_chart(
    results: Results,
    title: str,
    key: str,
    show: Callable[[float], str] = number,
    low: float | None = None,
    join: bool = False,
) -> Chart | None:
    """The measure `key` of dreams, and of copies of the last frame if those have it; None if neither has values.

    A horizon without a value leaves a gap in the line; `join` connects the horizons before and after it. `show` and
    `low`: see `line_chart`.
    """
    lines = []
    for name, place, style in (("dream", key, "b"), ("copy of the last frame", f"copy_{key}", "e")):
        values = lookup(results, f"dynamics.horizon.{place}") or []
        points = [(h, y) for h, y in enumerate(values, start=1) if not join or y is not None]
        lines.append(Line(name, [h for h, _ in points], [y for _, y in points], style))
    return line_chart(title, lines, "horizon, frames", show=show, low=low)
