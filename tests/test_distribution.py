"""What pyproject.toml declares, and how people are told to install it. CI also builds the wheel: `.ci/wheel.py`."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = {".html", ".j2", ".md", ".py", ".sh", ".toml", ".txt", ".yml", ""}


def installed_by_pip(text: str) -> list[str]:
    """The projects that the `pip install` commands in `text` name."""
    commands = re.findall(r"pip3? install ([^\n`]*)", text)
    return [name for command in commands for name in re.findall(r"(?:^| )[\"']?(\w[\w-]*)", command)]


def test_no_text_installs_the_other_project_of_this_name() -> None:
    assert installed_by_pip('run `pip install "embody[crafter]"`') == ["embody"]
    paths = [path for folder in ("src", "docs", "benchmarks", "code", "docker") for path in (ROOT / folder).rglob("*")]
    paths = [path for path in (*paths, *ROOT.iterdir()) if path.is_file() and path.suffix in TEXT]
    assert len(paths) > 100
    for path in paths:
        text = path.read_text()
        assert "embody" not in installed_by_pip(text), path
        assert not re.search(r"\bembody\[[a-z]", text), path


def test_every_extra_that_messages_name_exists() -> None:
    sources = (path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = {extra for text in sources for extra in re.findall(r"install_extra\([\"'](\w+)", text)}
    assert {"crafter", "minigrid"} <= named <= set(PYPROJECT["project"]["optional-dependencies"])


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "embody", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "evaluate" in done.stdout, done.stderr
