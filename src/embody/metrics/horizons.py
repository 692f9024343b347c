"""Measures of imagined frames against the horizon, as a table."""

from collections.abc import Callable, Mapping
from typing import Any

from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import SHOWN
from embody.metrics.sections import Table

__all__ = ["by_horizon"]


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
