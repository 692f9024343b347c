"""Two runs' `results.json`, held against each other: `python -m benchmarks.compare_results BEFORE AFTER`.

What a change of structure must leave equal, digit by digit: everything but times, versions, peak memory, command,
machine and date (it holds no paths). Prints each value that differs, and exits with 1 if any does.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["IGNORED", "differences"]

IGNORED = frozenset(
    {
        *("wall_seconds", "stage_seconds", "peak_memory_gib"),  # how long, and how much
        *("command", "versions", "machine", "date"),  # with what, where and when
    }
)
_MISSING = "missing"


def differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """`(dotted key, before, after)` of each value that differs; `IGNORED` names keys of the top level."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            if key or name not in IGNORED:
                yield from differences(
                    before.get(name, _MISSING), after.get(name, _MISSING), f"{key}.{name}".strip(".")
                )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{key}.{place}")
    elif type(before) is not type(after) or before != after:
        yield key, before, after


def main(before: str, after: str) -> int:
    """Print what differs between the two files; 0 if nothing does."""
    found = list(differences(*(json.loads(Path(path).read_text(encoding="utf-8")) for path in (before, after))))
    for key, old, new in found:
        print(f"{key}: {old} -> {new}")
    print(f"{len(found)} values differ")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
