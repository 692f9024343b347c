"""The README's Python runs as it stands, and its commands exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from embody.cli.parse import parse
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_loads_a_checkpoint_and_acts(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = blocks("python")
    shutil.copytree(tiny_config(finished).weights("agent").parent, tmp_path / "weights" / "minigrid")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert re.fullmatch(
        r"use the key to open the door and then get to the goal - (not )?done\n", capsys.readouterr().out
    )
    assert names["terminated"] or names["truncated"]


def test_the_shipped_weights_play_crafter_as_their_card_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = blocks("python", (ROOT / "weights/crafter_small/README.md").read_text())
    monkeypatch.chdir(ROOT)
    exec(compile(snippet, "weights/crafter_small/README.md", "exec"), {})
    achieved = capsys.readouterr().out.removeprefix("achieved: ").split(", ")
    assert len(achieved) >= 5, "random play has 2.3 on average, these weights 10.3"


def test_the_commands_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"(?m)^embody (.*)$", "\n".join(blocks("sh"))) + re.findall(r"\| `embody (.*?)` \|", README)
    lines += [f"train agent {option}" for option in re.findall(r"`(--[a-z]+\.[^`]+)`", README)]
    assert len(lines) >= 13
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[-1] == "--help":
            with pytest.raises(SystemExit) as stop:
                parse(words)
            assert not stop.value.code, line
        else:
            assert callable(parse(words)), line


def test_what_it_links_to_is_there() -> None:
    made_by_the_demo = "docs/results/"
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert target.startswith(made_by_the_demo) or (ROOT / target).exists(), target
