"""The pages in `docs/`: what they link to exists, and the options that deviations.md names are accepted."""

import re
from pathlib import Path

import pytest

from embody.cli.parse import parse

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "weights").rglob("*.md"), ROOT / "CONTRIBUTING.md"]
DEVIATIONS = (ROOT / "docs" / "deviations.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+\.[^`]+)`", DEVIATIONS))))
def test_options_of_the_paper_are_accepted(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(parse(["train", "imagination", "minecraft_small", *option.split()]))
