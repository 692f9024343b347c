"""Results as Markdown: `python -m benchmarks.table benchmarks/results/FILE.json`."""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["markdown", "mfu"]

_SIDES = ("embody", "compiled", "peer")
_RATIOS = ("embody / peer", "best of ours / peer")
_HEAD = ("workload", "precision", *_SIDES, *_RATIOS, "MFU", "op calls", "GFLOP", "peak GiB", "p50, p95 ms")


def mfu(side: Mapping[str, Any], rate: float) -> float:
    """FLOPs of a unit over its median seconds and the matrix `rate` of its precision, in FLOP/s.

    The FLOPs are those of embody's formulas; the peer has none, its own are counted.
    """
    return float(side["flops"] or side["flops_counted"]) / statistics.median(side["seconds"]) / rate


def markdown(results: Mapping[str, Any]) -> str:
    """What was measured where, the roofline and a row for each workload and precision."""
    machine, settings, roof = results["machine"], results["settings"], results["roofline"]
    about = (
        f"{machine['processor']} ({', '.join(machine['instructions'])}), {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, load {machine['load_before']} before the run; {machine['system']}."
        f" {results['date']}, commit {results['commit']}, `{results['command']}`."
    )
    how = (
        f"{settings['threads']} threads, OMP_WAIT_POLICY={settings['wait_policy']}, torch {settings['torch']},"
        f" {settings['peer']}, {settings['rounds']} interleaved rounds: median (best)."
    )
    rates = (
        f"Matrix rate {roof['float32']['best'] / 1e9:,.0f} GFLOP/s in float32, {roof['bfloat16']['best'] / 1e9:,.0f} in"
        f" bfloat16; memory {roof['bandwidth']['copy'] / 1e9:.1f} GB/s (copy), {roof['bandwidth']['triad'] / 1e9:.1f}"
        " (triad)."
    )
    what = (
        "Speeds are seconds a step, or frames a second; op calls and GFLOP are those of a step or a frame. `compiled`"
        " is embody with `compiled=True`; the peer is not compiled. MFU is FLOPs (embody's by formula, the peer's"
        " counted) over the median time and the matrix rate of the precision. Ratios compare speeds. Several values in"
        " a cell are in the order of the columns; a compiled step has no op calls to count."
    )
    rows = [_HEAD, ("---",) * len(_HEAD)] + [_row(entry, roof) for entry in results["workloads"]]
    return "\n\n".join((about, how, rates, what, "\n".join(f"| {' | '.join(row)} |" for row in rows)))


def _row(entry: Mapping[str, Any], roof: Mapping[str, Any]) -> tuple[str, ...]:
    sides = [entry["sides"].get(name) for name in _SIDES]
    rate = roof[entry["precision"]]["best"]
    share = entry["frames"] if entry["generates"] else 1
    medians = [statistics.median(side["seconds"]) if side else None for side in sides]
    plain, compiled, peer = medians

    def ratio(ours: float | None) -> str:
        return f"{peer / ours:.2f}x" if peer and ours else ""

    def each(text: Any) -> str:
        return " / ".join(text(side) for side in sides if side)

    return (
        f"{entry['name']} {entry['title']}",
        entry["precision"],
        *(_speed(side, entry) if side else "" for side in sides),
        ratio(plain),
        ratio(min((seconds for seconds in (plain, compiled) if seconds), default=None)),
        each(lambda side: f"{mfu(side, rate):.0%}"),
        each(lambda side: f"{side['calls'] / share:,.0f}" if "calls" in side else "-"),
        each(lambda side: f"{(side['flops'] or side['flops_counted']) / share / 1e9:.1f}"),
        each(lambda side: f"{side['peak_bytes'] / 2**30:.2f}"),
        each(_latencies),
    )


def _latencies(side: Mapping[str, Any]) -> str:
    if not side.get("latencies"):
        return ""
    cuts = statistics.quantiles(side["latencies"], n=20, method="inclusive")
    return f"{1e3 * cuts[9]:.1f}, {1e3 * cuts[18]:.1f}"


def _speed(side: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    median, best = statistics.median(side["seconds"]), min(side["seconds"])
    if entry["generates"]:
        return f"{entry['frames'] / median:.1f} /s ({entry['frames'] / best:.1f})"
    return f"{median:.3f} s ({best:.3f})"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
