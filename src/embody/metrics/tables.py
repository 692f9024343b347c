"""Tables in Markdown, and numbers as text."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "decibels",
    "duration",
    "interval",
    "listed",
    "markdown",
    "percent",
    "points",
    "probability",
    "short_task",
    "three_figures",
    "two_decimals",
]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def decibels(value: float) -> str:
    """`31.4 dB`."""
    return f"{value:.1f} dB"


def percent(value: float) -> str:
    """`62.0%`, of a share in [0, 1]."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """`+4.8`, a difference of two shares in percentage points."""
    return f"{round(100 * value, 6):+.1f}"  # 0.0475 is a little less in binary: rounded first, it is 4.8 as in decimal


def three_figures(value: float) -> str:
    """Three significant figures: `0.914`, `0.00213`."""
    return f"{value:.3g}"


def probability(p: float) -> str:
    """The p value of a test: `0.034`, `<0.001`."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def two_decimals(value: float) -> str:
    """`1.30`."""
    return f"{value:.2f}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def interval(value: Mapping[str, Any] | None) -> str:
    """`62.0% (52-71)`, a rate with its interval; a dash if there is no rate."""
    return f"{percent(value['mean'])} ({100 * value['low']:.0f}-{100 * value['high']:.0f})" if value else "-"


def listed(values: Mapping[str, Any]) -> str:
    """`python 3.11.7, torch 2.13.0`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def short_task(task: str) -> str:
    """The name of a gymnasium environment without suite and version: `MiniGrid-DoorKey-6x6-v0` -> `DoorKey-6x6`."""
    versioned = re.fullmatch(r"(?:\w+-)?(.+)-v\d+", task)
    return versioned[1] if versioned else task
