"""One side and workload in a process of its own: `python -m benchmarks.worker SIDE WORKLOAD PRECISION [--tiny]`.

Speaks JSON lines. It builds, warms up, says `{"torch": ..., "threads": ...}`, and then answers each line of its input:
`run` with the seconds of one unit, `finish` with its peak memory and what it counted, and ends. Between them it sleeps.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

import torch

from benchmarks.measure import Unit, counts, peak_bytes
from benchmarks.workloads import FULL, TINY, WORKLOADS

WARM_UP = 2  # units; the second already runs as all others


def timed(unit: Unit) -> float:
    """Seconds of one unit; a `RuntimeError` if its result is not finite."""
    unit.prepare()
    start = time.perf_counter()
    result = unit.run()
    seconds = time.perf_counter() - start
    if not bool(torch.isfinite(result).all()):
        raise RuntimeError("the result is not finite")
    return seconds


def main(side: str, name: str, precision: str, *options: str) -> None:
    """Serve until `finish`."""
    # Whatever a library prints must not reach the protocol.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    module = importlib.import_module("benchmarks.peer" if side == "peer" else "benchmarks.ours")
    compiled = {"compiled": True} if side == "compiled" else {}
    unit: Unit = module.build(WORKLOADS[name], precision, TINY if "--tiny" in options else FULL, **compiled)
    start = time.perf_counter()
    for _ in range(WARM_UP):
        timed(unit)
    warm_up = time.perf_counter() - start
    if unit.latencies:
        unit.latencies.clear()
    reply(torch=torch.__version__, threads=torch.get_num_threads(), warm_up_seconds=warm_up)
    for line in sys.stdin:
        if line.strip() == "run":
            reply(seconds=timed(unit))
        else:
            # Counting holds memory of its own, and adds to latencies. What is compiled cannot be watched.
            peak, latencies = peak_bytes(), list(unit.latencies or [])
            counted = {} if compiled else counts(unit)
            reply(peak_bytes=peak, flops=unit.flops, latencies=latencies, **counted)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
