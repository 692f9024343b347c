"""The index lists every page of docs/, every link leads somewhere, and deviations.md names options that exist."""

import re
from pathlib import Path

import pytest

from embody.cli.parse import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/**/*.md")))


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets of the links and pictures that do not lead to another site."""
    text = re.sub(r"`[^`\n]*`", "", without_code(page))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"(?m)^#+ +(.*?) *$", without_code(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists() and found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    missing = {page for page in PAGES if page != index} - listed - {ROOT / "README.zh.md"}
    assert not missing


def test_pages_are_found() -> None:
    assert {ROOT / "README.md", ROOT / "docs/LOG.md", ROOT / "docs/results/crafter.md"} <= set(PAGES)
    assert links(ROOT / "docs/README.md") and anchors(ROOT / "docs/README.md")


OPTIONS_OF_THE_PAPER = sorted(set(re.findall(r"`(--[a-z-]+\.[^`]+)`", (ROOT / "docs/deviations.md").read_text())))


@pytest.mark.parametrize("option", OPTIONS_OF_THE_PAPER)
def test_options_that_give_the_papers_choice_are_accepted(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(parse(["train", "imagination", "minecraft_small", *option.split()]))
