"""The README's results: `python -m benchmarks.results_chart` draws docs/results/results.svg and prints the table.

All numbers come from the JSON files in docs/results. docs/statistics.md explains intervals and controls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from embody.metrics.outcomes import outcomes_of
from embody.metrics.results_file import Results, read_results
from embody.metrics.statistics import (
    Estimate,
    Outcomes,
    Statistic,
    achievement_score,
    bootstrap,
    mean_rate,
    paired_bootstrap,
)
from embody.metrics.tables import markdown

__all__ = ["CHART", "EXPERIMENTS", "Experiment", "Interval", "Measured", "cells", "chart", "measure", "table"]

_RESULTS = Path(__file__).parents[1] / "docs" / "results"
CHART = _RESULTS / "results.svg"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their training seed alone. Files are named without folder and `.json`."""

    title: str
    page: str  # in docs/results, without `.md`; it begins with the commands that made the files
    runs: tuple[str, ...]  # a file for each training seed
    shuffled: tuple[tuple[str, str], ...] = ()  # for each seed of the control: the files with BC's and its outcomes
    statistic: Statistic = mean_rate


def _seeds(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}{seed}" for seed in range(n))


_MINIGRID = (
    Experiment("MiniGrid: make demo, 19 minutes", "minigrid", ("minigrid",)),
    Experiment(
        "MiniGrid: longer training, 40% of the recordings succeed",
        "minigrid_long",
        _seeds("minigrid_long", 3),
        tuple((name, name) for name in _seeds("minigrid_long", 3)),
    ),
    Experiment("MiniGrid: the same, but BC on all recordings", "minigrid_long", _seeds("minigrid_all", 3)),
)
_CRAFTER = (
    Experiment(
        "Crafter: preset crafter_small, two CPU cores",
        "crafter",
        _seeds("crafter_500_", 5),
        (
            ("crafter_small0", "crafter_small0"),
            ("crafter_small1", "crafter_shuffled1"),
            ("crafter_small2", "crafter_shuffled2"),
        ),
        achievement_score,
    ),
    Experiment(
        "Crafter: preset crafter, one GPU",
        "crafter_gpu",
        _seeds("crafter_gpu", 3),
        (("crafter_gpu0", "crafter_gpu0"),),
        achievement_score,
    ),
)
EXPERIMENTS: tuple[Experiment, ...] = (*_MINIGRID, *_CRAFTER)


# --- numbers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval: percent of episodes, Crafter's score, or a difference of two of these."""

    value: float
    low: float
    high: float

    def text(self, sign: str = "") -> str:
        """`84.2 (80.4 to 87.5)`; with `sign="+"` positive numbers have a plus."""
        return f"{self.value:{sign}.1f} ({self.low:{sign}.1f} to {self.high:{sign}.1f})"


@dataclass(frozen=True)
class Measured:
    """What an experiment came to."""

    experiment: Experiment
    policies: dict[str, Interval]  # random, cloning, imagination; shuffled if that control was trained
    gain: Interval  # imagination minus BC, paired by episode
    shuffled_gain: Interval | None  # imagination with shuffled rewards minus BC, for the seeds of the control


def measure(experiment: Experiment) -> Measured:
    """The numbers of an experiment's files. Of one seed the intervals are Wilson's, as its file has them."""
    played = {policy: _outcomes(policy, experiment.runs) for policy in ("random", "cloning", "imagination")}
    policies = {policy: _value(outcomes, experiment) for policy, outcomes in played.items()}
    if len(experiment.runs) == 1:
        rates = _read(experiment.runs[0])["success"]
        policies = {p: Interval(*(100 * rates[p][end] for end in ("mean", "low", "high"))) for p in policies}
    gain = _gain(played["imagination"], played["cloning"], experiment)
    if not experiment.shuffled:
        return Measured(experiment, policies, gain, None)
    cloning = _outcomes("cloning", [file for file, _ in experiment.shuffled])
    shuffled = _outcomes("shuffled", [file for _, file in experiment.shuffled])
    policies["shuffled"] = _value(shuffled, experiment)
    return Measured(experiment, policies, gain, _gain(shuffled, cloning, experiment))


def _read(file: str) -> Results:
    return read_results(_RESULTS / f"{file}.json")


def _outcomes(policy: str, files: Sequence[str]) -> Outcomes:
    _, outcomes = outcomes_of([_read(file) for file in files])
    return outcomes[policy]


def _value(outcomes: Outcomes, experiment: Experiment) -> Interval:
    return _interval(bootstrap(outcomes, experiment.statistic), experiment)


def _gain(ours: Outcomes, theirs: Outcomes, experiment: Experiment) -> Interval:
    return _interval(paired_bootstrap(ours, theirs, experiment.statistic), experiment)


def _interval(found: Estimate, experiment: Experiment) -> Interval:
    factor = 1 if experiment.statistic is achievement_score else 100
    return Interval(*(factor * float(end) for end in (found.value, found.low, found.high)))


# --- table ----------------------------------------------------------------------------------------------------------

_HEADER = ["experiment", "training seeds", "random", "BC", "imagination", "gain over BC", "gain with shuffled rewards"]


def cells(measured: Measured) -> list[str]:
    """An experiment's row of the table, without its title."""
    gains = [measured.gain.text("+"), measured.shuffled_gain.text("+") if measured.shuffled_gain else "-"]
    return [str(len(measured.experiment.runs)), *(measured.policies[p].text() for p in _SHOWN[:3]), *gains]


def table(rows: Sequence[Measured]) -> str:
    """The Markdown table of the README."""
    linked = [f"[{row.experiment.title}](docs/results/{row.experiment.page}.md)" for row in rows]
    return markdown(_HEADER, [[title, *cells(row)] for title, row in zip(linked, rows, strict=True)])


# --- chart ----------------------------------------------------------------------------------------------------------

_SHOWN = ("random", "cloning", "imagination", "shuffled")
_LABELS = {"random": "random policy", "cloning": "BC", "imagination": "imagination", "shuffled": "shuffled rewards"}
_WIDTH, _LEFT, _RIGHT = 860, 200, 160  # pixels; the plot lies between the margins
_ROW, _TITLE, _GAP, _AXIS = 19, 24, 8, 62  # heights of a policy, of titles, below an experiment, of an axis
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .card { fill: #ffffff; stroke: #d0d7de }
  .soft { fill: #59636e } .rule { stroke: #d8dee4 } .bold { font-weight: 600 }
  .random { color: #6e7781 } .cloning { color: #0969da } .imagination { color: #bc4c00 } .shuffled { color: #8250df }
  .mark { stroke: currentColor; fill: currentColor; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .card { fill: #0d1117; stroke: #30363d } .soft { fill: #9198a1 } .rule { stroke: #30363d }
    .random { color: #9198a1 } .cloning { color: #58a6ff } .imagination { color: #f0883e } .shuffled { color: #bc8cff }
  }
"""


def chart(rows: Sequence[Measured]) -> str:
    """An SVG image: a dot with its interval for each policy, MiniGrid's success above Crafter's score."""
    panels = (
        ("MiniGrid: success in held-out episodes, in percent", 100, 25, [r for r in rows if r.experiment in _MINIGRID]),
        ("Crafter: score (0 to 100) in held-out worlds", 30, 10, [r for r in rows if r.experiment in _CRAFTER]),
    )
    marks: list[str] = []
    top = 12.0
    for title, most, step, shown in panels:
        height = sum(_TITLE + _ROW * len(row.policies) + _GAP for row in shown)
        marks += _axis(title, most, step, top, height)
        top += _TITLE
        for row in shown:
            runs, controls = len(row.experiment.runs), len(row.experiment.shuffled)
            top += _TITLE
            marks.append(_text(_LEFT, top - 9, f"{row.experiment.title} ({_count(runs)})"))
            for policy in (policy for policy in _SHOWN if policy in row.policies):
                fewer = f" ({_count(controls)})" if policy == "shuffled" and controls != runs else ""
                marks.append(_text(_LEFT - 12, top + 14, _LABELS[policy] + fewer, "", "end"))
                marks += _dot(policy, row.policies[policy], most, top + _ROW / 2)
                top += _ROW
            top += _GAP
        top += _AXIS - _TITLE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" role="img">\n'
        "<title>Success and score of each policy, with 95% intervals</title>\n"
        f'<style>{_STYLE}</style>\n<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{top - 1:.0f}"'
        ' rx="8"/>\n' + "\n".join(marks) + "\n</svg>\n"
    )


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _x(value: float, most: float) -> float:
    return _LEFT + value / most * (_WIDTH - _LEFT - _RIGHT)


def _text(x: float, y: float, text: str, style: str = "bold", anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis(title: str, most: int, step: int, top: float, height: float) -> Iterator[str]:
    yield _text(20, top + 14, title, "soft")
    bottom = top + _TITLE + height
    for tick in range(0, most + 1, step):
        x = _x(tick, most)
        yield f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{top + _TITLE:.1f}" y2="{bottom:.1f}"/>'
        yield _text(x, bottom + 16, str(tick), "soft", "middle")


def _dot(policy: str, found: Interval, most: float, y: float) -> Iterator[str]:
    low, value, high = (_x(end, most) for end in (found.low, found.value, found.high))
    yield f'<g class="{policy}"><line class="mark" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    yield f'<circle class="mark" cx="{value:.1f}" cy="{y:.1f}" r="4"/></g>'
    yield _text(_WIDTH - 20, y + 4.5, found.text(), "", "end")


def main() -> None:
    """Draw the chart, print the table."""
    rows = [measure(experiment) for experiment in EXPERIMENTS]
    CHART.write_text(chart(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
