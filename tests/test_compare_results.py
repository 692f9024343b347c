"""What the comparison of two `results.json` calls different: the proof that a change of structure altered nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_results import IGNORED, differences, main

RESULTS = {"seed": 0, "psnr": [30.125, None], "success": {"mean": 0.5, "date": "then"}, "date": "then"}


def test_equal_results_do_not_differ() -> None:
    assert not list(differences(RESULTS, json.loads(json.dumps(RESULTS))))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"psnr": [30.125000000000004, None]}, ("psnr.0", 30.125, 30.125000000000004)),  # by its last digit
        ({"psnr": [30.125]}, ("psnr", [30.125, None], [30.125])),
        ({"seed": 0.0}, ("seed", 0, 0.0)),  # equal in Python, but of another type
        ({"seed": False}, ("seed", 0, False)),
        ({"success": {"date": "then"}}, ("success.mean", 0.5, "missing")),
        ({"more": None}, ("more", "missing", None)),
        ({"success": {"mean": 0.5, "date": "now"}}, ("success.date", "then", "now")),  # not at the top level
    ],
)
def test_each_difference_is_found(changed: dict[str, Any], found: tuple[str, Any, Any]) -> None:
    assert list(differences(RESULTS, RESULTS | changed)) == [found]


@pytest.mark.parametrize("key", sorted(IGNORED))
def test_what_differs_from_run_to_run_is_ignored_at_the_top_level_only(key: str) -> None:
    assert not list(differences(RESULTS | {key: 1}, RESULTS | {key: 2}))
    assert list(differences({"a": {key: 1}}, {"a": {key: 2}})) == [(f"a.{key}", 1, 2)]


def test_files_are_compared_and_the_exit_code_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("before.json", "same.json", "other.json")]
    for path, results in zip(paths, (RESULTS, RESULTS | {"date": "now"}, RESULTS | {"seed": 1}), strict=True):
        Path(path).write_text(json.dumps(results), encoding="utf-8")
    assert main(paths[0], paths[1]) == 0
    assert capsys.readouterr().out == "0 values differ\n"
    assert main(paths[0], paths[2]) == 1
    assert capsys.readouterr().out == "seed: 0 -> 1\n1 values differ\n"
