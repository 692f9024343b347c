"""All of it, by one command: `python -m benchmarks.run` (or `make bench`).

The roofline, then each workload in each precision: a process a side, which take turns. Results go to
`benchmarks/results/` as JSON, a table to the terminal.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import describe, slug
from benchmarks.peer_environment import peer_pin, peer_python
from benchmarks.table import markdown
from benchmarks.workloads import FULL, OURS, PRECISIONS, SIDES, TINY, WORKLOADS, Precision, Workload, chosen

ROOT = Path(__file__).resolve().parent.parent


class Unit(Protocol):
    """What can be asked for the seconds of one unit."""

    def run(self) -> float: ...


class Worker:
    """A `benchmarks.worker` process, which sleeps when it is not its turn."""

    def __init__(
        self, side: str, workload: Workload, precision: Precision, python: Path, env: Mapping[str, str], tiny: bool
    ) -> None:
        self.about = f"{side} {workload.name} {precision}"
        # `src` is for embody alone: what the peer imports is its own.
        env = {**env, "PYTHONPATH": str(ROOT / "src")} if side in OURS else env
        command = [str(python), "-m", "benchmarks.worker", side, workload.name, precision, *["--tiny"] * tiny]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.ready = self._reply()

    def run(self) -> float:
        """Seconds of one unit."""
        return float(self._ask("run")["seconds"])

    def finish(self) -> dict[str, Any]:
        """Peak memory and counts."""
        return self._ask("finish")

    def end(self) -> None:
        """No process is left behind."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.about} ended with code {self.process.wait()}: see its message above")
        return dict(json.loads(line))


def interleave(units: Mapping[str, Unit], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side's units, in turns: what disturbs the machine disturbs all."""
    seconds: dict[str, list[float]] = {side: [] for side in units}
    for _ in range(rounds):
        for side, unit in units.items():
            seconds[side].append(unit.run())
    return seconds


def environment(threads: int, wait_policy: str) -> dict[str, str]:
    """This process's, with the same OpenMP settings for everyone and no other ones."""
    others = ("OMP_", "GOMP_", "KMP_", "MKL_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    policy = {} if wait_policy == "default" else {"OMP_WAIT_POLICY": wait_policy}
    return {**kept, "OMP_NUM_THREADS": str(threads), **policy}


def measure(
    workload: Workload,
    precision: Precision,
    pythons: Mapping[str, Path],
    env: Mapping[str, str],
    rounds: int,
    tiny: bool,
) -> dict[str, Any]:
    """One entry of the results."""
    workers: dict[str, Worker] = {}
    try:
        for side in workload.sides:
            if side in pythons:
                workers[side] = Worker(side, workload, precision, pythons[side], env, tiny)
        seconds = interleave(workers, rounds)
        sides = {
            side: {**worker.ready, **worker.finish(), "seconds": seconds[side]} for side, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.end()
    return {
        "name": workload.name,
        "title": workload.title,
        "precision": precision,
        "generates": workload.generates,
        "frames": workload.frames(TINY if tiny else FULL),
        "sides": sides,
    }


def measure_roofline(env: Mapping[str, str], tiny: bool) -> dict[str, Any]:
    """`benchmarks.roofline` in a process of its own, under the workers' settings."""
    command = [sys.executable, "-m", "benchmarks.roofline", *["--tiny"] * tiny]
    return dict(json.loads(subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE).stdout))


def higher(one: Any, other: Any) -> Any:
    """Number by number, the higher of two rooflines."""
    if isinstance(one, dict):
        return {key: higher(value, other[key]) for key, value in one.items()}
    return max(one, other)


def commit() -> str:
    """Of the working tree, `+` if files differ; `unknown` outside of git."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    return answer.stdout.strip() or "unknown"


def save(results: Mapping[str, Any], folder: Path, kind: str = "") -> Path:
    """To a file named by machine and date, after its `kind` if it has one; an earlier one of that day stays."""
    stem, number = "-".join([kind] * bool(kind) + [slug(results["machine"]), results["date"]]), 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return path


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=[], help=f"all by default: {', '.join(WORKLOADS)}")
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=describe()["cores"])
    # Not `active`: the threads of the side that waits would spin in the other's turn.
    parser.add_argument("--wait-policy", default="default", choices=("default", "passive"))
    parser.add_argument("--peer-folder", type=Path, default=ROOT / ".bench" / "peer")
    parser.add_argument("--torch-index", default="", help="where the peer's torch comes from; PyPI by default")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: only whether it runs")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    return options


def main(words: Sequence[str] | None = None) -> Path:
    """Measure what the command line asks for; where the results went."""
    options = arguments(words)
    workloads = [w for w in chosen(options.workloads) if set(w.sides) & set(options.sides)]
    machine, env = describe(), environment(options.threads, options.wait_policy)
    pythons = {side: Path(sys.executable) for side in OURS if side in options.sides}
    if "peer" in options.sides:
        pythons["peer"] = peer_python(options.peer_folder, options.torch_index)
    before, entries = measure_roofline(env, options.tiny), []
    for workload in workloads:
        for precision in options.precisions:
            print(f"{workload.name} {precision}", file=sys.stderr, flush=True)
            entries.append(measure(workload, precision, pythons, env, options.rounds, options.tiny))
    sides = [side for entry in entries for side in entry["sides"].values()]
    results = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks.run", *(sys.argv[1:] if words is None else words)]),
        "machine": machine,
        "settings": {
            "threads": options.threads,
            "wait_policy": options.wait_policy,
            "rounds": options.rounds,
            "torch": " and ".join(sorted({side["torch"] for side in sides})),
            "peer": peer_pin() if "peer" in pythons else "no peer",
        },
        "roofline": higher(before, measure_roofline(env, options.tiny)),
        "workloads": entries,
    }
    print(markdown(results))
    return save(results, options.results)


if __name__ == "__main__":
    print(f"\n{main()}")
