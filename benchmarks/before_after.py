"""What a change that alters numbers did to the results: `python -m benchmarks.before_after BEFORE... --after AFTER...`.

Each file is a `results.json`; both sides have the same training seeds, in the same order. Prints a table of the change
of each policy's success, after minus before, with its 95% interval (docs/statistics.md), and of the world model's
measures, seed by seed. Exits with 1 if an interval does not contain 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from embody.errors import UserError
from embody.metrics.outcomes import outcomes_of
from embody.metrics.results_file import Results, lookup, read_results
from embody.metrics.statistics import difference

__all__ = ["main", "table"]

_POLICIES = ("cloning", "imagination")
_MEASURES = ("tokenizer.psnr_db", "dynamics.gain_over_copy_db", "dynamics.changed_cell_accuracy_h10")


def table(before: Sequence[Results], after: Sequence[Results]) -> tuple[str, bool]:
    """The Markdown table, and whether every interval contains 0; a `UserError` if the two sides cannot be compared."""
    seeds = [[lookup(run, "seed") for run in runs] for runs in (before, after)]
    if seeds[0] != seeds[1]:
        raise UserError(f"training seeds before {seeds[0]} and after {seeds[1]}: give the same ones in the same order")
    _, outcomes = outcomes_of([*before, *after])  # refuses runs that did not play the same episodes
    lines = ["| what | before | after | difference |", "| --- | --- | --- | --- |"]
    equal = True
    for policy in _POLICIES:
        old, new = outcomes[policy][: len(before)], outcomes[policy][len(before) :]
        change = difference(new, old)
        equal = equal and change.low <= 0 <= change.high
        rates = [", ".join(f"{rate:.1%}" for rate in side.mean(axis=(1, 2))) for side in (old, new)]
        span = f"{100 * change.value:+.1f} points ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
        lines.append(f"| success, {policy} | {rates[0]} | {rates[1]} | {span} |")
    for measure in _MEASURES:
        values = [[float(lookup(run, measure)) for run in runs] for runs in (before, after)]
        shown = [", ".join(f"{value:.3f}" for value in side) for side in values]
        mean = sum(values[1]) / len(after) - sum(values[0]) / len(before)
        lines.append(f"| {measure} | {shown[0]} | {shown[1]} | {mean:+.3f} |")
    return "\n".join(lines), equal


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every interval contains 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("before", nargs="+", type=Path, metavar="BEFORE")
    parser.add_argument("--after", nargs="+", type=Path, metavar="AFTER", required=True)
    paths = parser.parse_args(arguments)
    try:
        text, equal = table(*([read_results(path) for path in side] for side in (paths.before, paths.after)))
    except UserError as error:
        parser.error(str(error))
    print(text)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
