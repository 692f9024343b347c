"""What the comparison of two `results.json` calls different: the proof that a change of structure altered nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.before_after import main as before_after
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


# --- changes that alter numbers -------------------------------------------------------------------------------------


def run_of(seed: int, cloning: str, imagination: str) -> dict[str, Any]:
    """The results of a run of one task, whose episodes succeed where there is a 1."""
    world = {"gain_over_copy_db": 1.0 + seed, "changed_cell_accuracy_h10": 0.5}
    return {
        "seed": seed,
        "tokenizer": {"psnr_db": 30.0},
        "dynamics": world,
        "outcomes": {
            "seeds": {"A": list(range(len(cloning)))},
            "achieved": {"cloning": {"A": cloning}, "imagination": {"A": imagination}},
        },
    }


def test_a_change_is_told_with_its_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half, all_but_few = "10" * 50, "1" * 95 + "0" * 5
    runs = {"before": run_of(0, half, half), "same": run_of(0, half, half), "better": run_of(0, half, all_but_few)}
    for name, results in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    before, same, better = (str(tmp_path / f"{name}.json") for name in runs)
    assert before_after([before, "--after", same]) == 0
    assert "| success, cloning | 50.0% | 50.0% | +0.0 points (+0.0 to +0.0) |" in capsys.readouterr().out
    assert before_after([before, "--after", better]) == 1
    assert "| success, imagination | 50.0% | 95.0% | +45.0 points (+3" in capsys.readouterr().out
    other = tmp_path / "other.json"
    other.write_text(json.dumps(run_of(1, half, half)))
    with pytest.raises(SystemExit):
        before_after([before, "--after", str(other)])
    assert "training seeds before [0] and after [1]" in capsys.readouterr().err
