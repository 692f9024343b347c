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


def test_the_python_acts_and_dreams(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = blocks("python")
    shutil.copytree(tiny_config(finished).weights("agent").parent, tmp_path / "weights" / "minigrid")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert re.fullmatch(
        r"use the key to open the door and then get to the goal: "
        r"last reward [01]\.00 in the game, -?\d\.\d\d in the dream\n",
        capsys.readouterr().out,
    )
    assert names["terminated"] or names["truncated"]


def test_the_shipped_weights_open_the_door_in_the_game_and_in_the_dream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = blocks("python")
    monkeypatch.chdir(ROOT)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("last reward 1.00 in the game, 1.00 in the dream\n")


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
    pages = README, (ROOT / "docs/stages.md").read_text()
    lines = re.findall(r"(?m)^embody (.*)$", "\n".join(blocks("sh")))
    lines += [line for page in pages for line in re.findall(r"\| `embody (.*?)` \|", page)]
    assert len(lines) >= 20
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[-1] == "--help":
            with pytest.raises(SystemExit) as stop:
                parse(words)
            assert not stop.value.code, line
        else:
            assert callable(parse(words)), line


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_chinese_readme_has_the_same_code_links_and_pictures() -> None:
    def shared(text: str) -> tuple[list[str], list[str]]:
        code = re.findall(r"```.*?```", text, re.DOTALL)
        targets = re.findall(r"\]\((.*?)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        return code, [target for target in targets if not target.startswith("README")]

    assert shared(README) == shared((ROOT / "README.zh.md").read_text())
