"""Charts as inline SVG: lines, and bars with intervals. Colours are CSS classes of the page that holds them."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Line", "bar_chart", "line_chart", "smooth", "ticks"]

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34
POINTS = 240  # at most so many of a line are drawn


@dataclass(frozen=True)
class Line:
    """One line; None values leave gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = "a"  # CSS class: a, b, ... or raw (faint, without a name)


@dataclass(frozen=True)
class Bar:
    """One bar from 0 to `value`, with whiskers from `low` to `high`; all in [0, 1]."""

    name: str
    value: float
    low: float
    high: float
    style: str = "a"


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Mean over a centred window of `share` of the length, narrower towards both ends: begins and ends on the data."""
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    half, n = round(share * len(values) / 2), len(values)
    result = []
    for i in range(n):
        reach = min(half, i, n - 1 - i)
        result.append((total[i + reach + 1] - total[i - reach]) / (2 * reach + 1))
    return result


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) inside [low, high], at most `most` of them."""
    if not high > low:
        return [low]
    base = 10 ** math.floor(math.log10((high - low) / most))
    for step in (base, 2 * base, 2.5 * base, 5 * base, 10 * base, 20 * base):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; 2 and 5 times them as well where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    plain = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(plain) >= 3:
        return plain[:: math.ceil(len(plain) / 5)]
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def number(value: float) -> str:
    """A number for people: `0.031`, `1.2k`, `3M`."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _thin(line: Line) -> Line:
    step = math.ceil(len(line.x) / POINTS)
    keep = list(range(0, len(line.x), step))
    if keep[-1:] != [len(line.x) - 1]:
        keep.append(len(line.x) - 1)
    return Line(line.name, [line.x[i] for i in keep], [line.y[i] for i in keep], line.style)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    log: bool = False,
    show: Callable[[float], str] = number,
    reference: float | None = None,
    low: float | None = None,
) -> str:
    """A figure of `lines`, with a legend if there are several; `reference` is a dotted horizontal line.

    `low` pins the bottom of the axis. `log` needs positive values. Empty text if there is nothing finite to draw.
    """
    lines = [_thin(line) for line in lines if any(y is not None for y in line.y)]
    ys = [y for line in lines for y in line.y if y is not None] + ([] if reference is None else [reference])
    if not lines or not ys:
        return ""
    scale = math.log10 if log else float
    bottom, top = min(ys) if low is None else low, max(ys)
    if top <= bottom:
        bottom, top = bottom - (abs(bottom) * 0.1 or 1.0) * (not log), top + (abs(top) * 0.1 or 1.0)
    x_low, x_high = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)

    def px(x: float) -> float:
        return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        part = (scale(y) - scale(bottom)) / ((scale(top) - scale(bottom)) or 1)
        return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)

    marks = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{show(y)}</text>'
        for y in (_log_ticks(bottom, top) if log else ticks(bottom, top))
    ]
    marks += [
        f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(x)}</text>'
        for x in ticks(x_low, x_high, 6)
    ]
    if reference is not None:
        y = py(reference)
        marks.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    marks += [_path(line, px, py, show, x_title) for line in lines]
    marks.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" text-anchor="middle">'
        f"{html.escape(x_title)}</text>"
    )
    named = [line for line in lines if line.style != "raw"]
    caption = html.escape(title) + (' <span class="faint">(log scale)</span>' if log else "")
    return _figure(caption, HEIGHT, marks, _legend(named) if len(named) > 1 else "")


def _path(
    line: Line, px: Callable[[float], float], py: Callable[[float], float], show: Callable[[float], str], x_title: str
) -> str:
    """The line in pieces between gaps; few points get dots that tell their value on hover."""
    pieces: list[list[str]] = [[]]
    dots = []
    for x, y in zip(line.x, line.y, strict=True):
        if y is None:
            pieces.append([])
            continue
        pieces[-1].append(f"{px(x):.1f},{py(y):.1f}")
        if len(line.x) <= 40:
            tip = html.escape(f"{line.name}: {show(y)} at {x_title} {number(x)}")
            dots.append(
                f'<circle class="{line.style}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"><title>{tip}</title></circle>'
            )
    drawn = [f'<polyline class="{line.style}" points="{" ".join(piece)}"/>' for piece in pieces if len(piece) > 1]
    return "".join(drawn + dots)


def _legend(lines: Sequence[Line]) -> str:
    items = [f'<span><i class="{line.style}"></i>{html.escape(line.name)}</span>' for line in lines]
    return f'<div class="legend">{"".join(items)}</div>'


def _figure(caption: str, height: int, marks: Sequence[str], below: str = "") -> str:
    return (
        f'<figure class="chart"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(marks)}</svg>{below}</figure>'
    )


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """A figure of horizontal bars over 0-100%, each with its interval as whiskers and its value in figures."""
    left, right, row = 116, 44, 26
    height = len(bars) * row + 26

    def px(share: float) -> float:
        return left + share * (WIDTH - left - right)

    marks = [
        f'<line class="grid" x1="{px(s):.1f}" x2="{px(s):.1f}" y1="4" y2="{height - 20}"/>'
        f'<text x="{px(s):.1f}" y="{height - 6}" text-anchor="middle">{100 * s:.0f}%</text>'
        for s in (0, 0.25, 0.5, 0.75, 1)
    ]
    for i, bar in enumerate(bars):
        y = 8 + i * row
        middle, tip = y + 9, html.escape(f"{bar.name}: {bar.value:.1%} (95%: {bar.low:.1%} to {bar.high:.1%})")
        marks.append(
            f'<text class="name" x="{left - 8}" y="{middle + 4}" text-anchor="end">{html.escape(bar.name)}</text>'
            f'<g><title>{tip}</title><rect class="{bar.style}" x="{left}" y="{y}" height="18" rx="2"'
            f' width="{max(1.0, px(bar.value) - left):.1f}"/>'
            f'<path class="whisker" d="M{px(bar.low):.1f} {middle}H{px(bar.high):.1f}'
            f'M{px(bar.low):.1f} {middle - 4}v8M{px(bar.high):.1f} {middle - 4}v8"/></g>'
            f'<text class="name" x="{WIDTH}" y="{middle + 4}" text-anchor="end">{bar.value:.0%}</text>'
        )
    return _figure(html.escape(title), height, marks)
