"""Charts as SVG for an HTML page: lines, and bars with intervals.

Colours are CSS variables of the page (`--a` to `--e`, `--ink`, `--soft`, `--rule`): a chart follows the page's theme.
A page without these variables gets the colours of a light theme. Matplotlib takes a second to import, so the functions
that draw import it.
"""

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embody.metrics.sections import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bar", "Line", "bar_chart", "line_chart", "number", "smooth"]

WIDTH, HEIGHT = 360, 200  # points
POINTS = 240  # a line is drawn through at most this many points

_COLOURS = {
    "a": "#0b6e99",
    "b": "#c2570c",
    "c": "#2e8540",
    "d": "#7a52b3",
    "e": "#8a8f98",
    "ink": "#1c2024",
    "soft": "#5f6773",
    "rule": "#dfe3e8",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 12,
    "path.simplify": False,  # simplification drops a point between two gaps
    "text.color": _COLOURS["ink"],
    "axes.labelcolor": _COLOURS["soft"],
    "xtick.labelcolor": _COLOURS["soft"],
    "ytick.labelcolor": _COLOURS["soft"],
}


@dataclass(frozen=True)
class Line:
    """One line; None values leave gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "a"  # a colour, a to e; or "raw": a faint line that the legend leaves out


@dataclass(frozen=True)
class Bar:
    """One bar from 0 to `value`, with whiskers from `low` to `high`; all in [0, 1]."""

    name: str
    value: float
    low: float
    high: float
    style: str = "a"


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """The running mean over a centred window of `share` of the length.

    The window narrows towards both ends, so the first and the last value stay as they are.
    """
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    half, n = round(share * len(values) / 2), len(values)
    result = []
    for i in range(n):
        reach = min(half, i, n - 1 - i)
        result.append((total[i + reach + 1] - total[i - reach]) / (2 * reach + 1))
    return result


def number(value: float) -> str:
    """A number for people: `0.031`, `1.2k`, `3M`."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    log: bool = False,
    show: Callable[[float], str] = number,
    low: float | None = None,
) -> Chart | None:
    """`lines` over one axis, with a legend if there are several lines; None if no line has a value.

    `show` formats the numbers at the y axis. `low` fixes the lower end of that axis. `log` needs positive values.
    """
    import matplotlib
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    lines = [line for line in lines if any(y is not None for y in line.y)]
    if not lines:
        return None
    named = [line for line in lines if line.style != "raw"]
    height = HEIGHT + (22 if len(named) > 1 else 0)
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _axes(height, left=62, right=12, bottom=38 + height - HEIGHT)
        for line in lines:
            _draw(axes, line)
        axes.set_xlabel(x_title, labelpad=2)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
        if log:
            axes.set_yscale("log")
            bottom, top = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1,) if top > 100 * bottom else (1, 2, 5), numticks=5))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: show(y)))
        axes.set_ylim(bottom=low)
        axes.minorticks_off()
        axes.yaxis.grid(True, color=_COLOURS["rule"], linewidth=1, clip_on=False)
        if len(named) > 1:
            figure.legend(loc="lower center", ncols=len(named), frameon=False, handlelength=1.4, borderpad=0.2)
        described = ", ".join(f"{line.name} {_ends(line, show)}" for line in named)
        return Chart(f"{title} (log scale)" if log else title, _svg(figure, f"{title}: {described}"))


def _ends(line: Line, show: Callable[[float], str]) -> str:
    """The first and the last known value, for a screen reader."""
    known = [y for y in line.y if y is not None]
    return f"from {show(known[0])} to {show(known[-1])}"


def _draw(axes: "Axes", line: Line) -> None:
    step = math.ceil(len(line.x) / POINTS)
    kept = [*range(0, len(line.x) - 1, step), len(line.x) - 1]
    x, y = np.array(line.x, float)[kept], np.array(line.y, float)[kept]
    gap = np.isnan(np.pad(y, 1, constant_values=np.nan))
    twice = np.where(gap[:-2] & gap[2:], 2, 1)  # a point between two gaps is drawn as a line to itself: a dot
    faint = line.style == "raw"
    axes.plot(
        *(np.repeat(x, twice), np.repeat(y, twice)),
        color=_COLOURS["a" if faint else line.style],
        linewidth=1 if faint else 2,
        alpha=0.3 if faint else 1,
        linestyle=(0, (3, 2)) if line.style == "e" else "-",
        solid_capstyle="round",
        label=None if faint else line.name,
        clip_on=False,
    )


def bar_chart(title: str, bars: Sequence[Bar]) -> Chart:
    """Horizontal bars over 0-100%, the first on top, each with its interval as whiskers and its value as a number."""
    import matplotlib
    from matplotlib.ticker import PercentFormatter

    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _axes(len(bars) * 26 + 26, left=146, right=50, bottom=22)
        for row, bar in enumerate(bars):
            axes.barh(row, bar.value, 0.7, color=_COLOURS[bar.style], clip_on=False)
            ends = [bar.low] * 3 + [bar.high] * 3
            axes.plot(
                *(ends, [row - 0.15, row + 0.15, row, row, row - 0.15, row + 0.15]),
                color=_COLOURS["ink"],
                linewidth=1.5,
                clip_on=False,
            )
            axes.text(1.29, row, f"{bar.value:.0%}", ha="right", va="center_baseline", fontsize=13)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.tick_params(axis="y", labelsize=13, labelcolor=_COLOURS["ink"], pad=8)
        axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(0, 1)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.xaxis.grid(True, color=_COLOURS["rule"], linewidth=1, clip_on=False)
        values = [f"{bar.name} {bar.value:.0%} ({bar.low:.0%} to {bar.high:.0%})" for bar in bars]
        return Chart(title, _svg(figure, f"{title}: {', '.join(values)}"))


def _axes(height: float, left: float, right: float, bottom: float, top: float = 10) -> "tuple[Figure, Axes]":
    """A figure of that height with margins, all in points. It does not use pyplot, which keeps global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height))
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6)
    for patch in (figure.patch, axes.patch):
        patch.set_visible(False)
    return figure, axes


def _svg(figure: "Figure", described: str) -> str:
    """The figure as markup inside an HTML page: it takes the page's font, and has no ids, which could clash."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    box, body = re.search(r'<svg [^>]*(viewBox="[^"]*")[^>]*>(.*)', buffer.getvalue(), re.DOTALL).groups()  # type: ignore[union-attr]
    body = re.sub(r"<defs>\s*<style.*?</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[^"]*"| transform="rotate\(-0 [^"]*"| font-family: [^;]*;', "", body)
    assert "<g " not in body and "(#" not in body and "href" not in body, body
    body = re.sub(r"\s+", " ", re.sub(r"</?g/?>", "", body))  # these groups only carried an id
    for name, colour in _COLOURS.items():
        body = body.replace(colour, f"var(--{name}, {colour})")
    return f'<svg {box} role="img" aria-label="{html.escape(described)}">{body.replace("> <", "><").strip()}'
