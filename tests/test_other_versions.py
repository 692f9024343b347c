"""Folders that another version of embody wrote: missing or unknown fields and other types, each refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from embody.config import Config, EnvConfig, from_dict, to_dict
from embody.errors import UserError
from embody.evaluation.compare import compare_runs
from embody.evaluation.report import write_report
from embody.evaluation.run import FinishedParts
from embody.recording.importing import REPORT, read_changes, read_other_files, read_report
from embody.run.folder import config_path, read_config

OUTCOMES = {"seeds": {"go": [1, 2]}, "achieved": {"cloning": {"go": "10"}, "imagination": {"go": "11"}}}
RATE = {"mean": 0.5, "low": 0.1, "high": 0.9}


def write(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"workers": "2"}, r"Config.workers: expected int, got '2'"),
        ({"workers": True}, r"Config.workers: expected int, got True"),
        ({"slots": 3}, r"Config: unknown field 'slots'"),
        ({"env": [1]}, r"Config.env: expected a table of fields, got \[1\]"),
        ({"env": {"tasks": "go", "max_steps": [9]}}, r"Config.env.tasks: expected a list, got 'go'"),
        ({"preset": "chess"}, r"unknown preset 'chess'"),
        ({"name": "../a"}, r"name '../a' has one of the characters"),
    ],
)
def test_a_config(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write(config_path(tmp_path), to_dict(Config()) | changed)
    with pytest.raises(UserError, match=f"{path} cannot be read .{says}.*: delete it, or use another --name"):
        read_config(tmp_path)


def test_a_config_of_an_older_version_gets_the_defaults_of_newer_settings() -> None:
    stored = to_dict(Config())
    del stored["compile"], stored["env"]["fps"]
    assert from_dict(Config, json.loads(json.dumps(stored))) == Config()
    assert from_dict(EnvConfig, {}) == EnvConfig()


@pytest.mark.parametrize(
    "changed",
    [
        {"success": {"cloning": {"mean": 0.5}}},
        {"success": {"cloning": RATE | {"mean": "half"}}},
        {"success": {"demonstrations": {"by_noise": [1]}}},
        {"success": {"cloning": RATE | {"tasks": {"go": 0.5}}}},
        {"wall_seconds": None},
        {"stage_seconds": [1]},
        {"against_cloning": {"imagination": {"value": 0.1}}},
        {"outcomes": 3, "game": 3},
    ],
)
def test_results_in_a_report(changed: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "run" / "results.json", changed)
    with pytest.raises(
        UserError, match=f"^{tmp_path}/run has results of another version .* run `embody evaluate`|game"
    ):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    "achieved", [{"cloning": {}}, {"cloning": {"go": None}}, {"cloning": {"go": "1"}}, {"cloning": 3}, [3], 3]
)
def test_results_to_compare(achieved: Any, tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "results.json", {"seed": 0, "outcomes": OUTCOMES})
    second = write(tmp_path / "b" / "results.json", {"seed": 1, "outcomes": OUTCOMES})
    compare_runs([first, second])
    write(second, {"seed": 1, "outcomes": OUTCOMES | {"achieved": achieved}})
    with pytest.raises(UserError, match=f"{first} or {second} has (results of another version|no policy in common)"):
        compare_runs([first, second])


@pytest.mark.parametrize("lacking", ["complete", "models", "parts"])
def test_an_evaluation_that_was_interrupted_in_another_version_starts_again(lacking: str, tmp_path: Path) -> None:
    parts = FinishedParts(tmp_path / "evaluation.json", "x", {"a": "1"})
    parts.part("a", "go", lambda: 1)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(FinishedParts(tmp_path / "evaluation.json", "x", {"a": "1"})) == 1
    del stored[lacking]
    write(tmp_path / "evaluation.json", stored)
    assert len(FinishedParts(tmp_path / "evaluation.json", "x", {"a": "1"})) == (lacking == "complete")


@pytest.mark.parametrize(
    ("read", "name", "line"),
    [
        (read_report, "skipped", {"file": "a"}),
        (read_report, "skipped", {"file": "a", "what": "b", "where": "c", "why": "d"}),
        (read_changes, "changed", {"file": "a", "changes": 3}),
        (read_changes, "changed", ["a"]),
        (read_other_files, "other_files", {"name": "a"}),
        (read_other_files, "other_files", "a"),
    ],
)
def test_a_report_of_an_import(read: Any, name: str, line: Any, tmp_path: Path) -> None:
    path = write(tmp_path / REPORT, {name: [line]})
    with pytest.raises(UserError, match=f"{path} was written by another version .*: delete it and import again"):
        read(tmp_path)
