"""The README's chart and table hold the numbers of the JSON files, and no others."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.results_chart import CHART, EXPERIMENTS, Measured, cells, chart, measure, table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    return [measure(experiment) for experiment in EXPERIMENTS]


def test_the_chart_is_what_its_command_draws(measured: list[Measured]) -> None:
    assert CHART.read_text() == chart(measured), "run `python -m benchmarks.results_chart` and commit the chart"


def test_the_chart_shows_every_number(measured: list[Measured]) -> None:
    texts = [
        text.text or "" for text in ElementTree.fromstring(chart(measured)).iter("{http://www.w3.org/2000/svg}text")
    ]
    expected = [interval.text() for row in measured for interval in row.policies.values()]
    assert [text for text in texts if text.endswith(")") and " to " in text and text[0].isdigit()] == expected


def test_the_readme_has_the_table_of_the_command(measured: list[Measured]) -> None:
    assert table(measured) in (ROOT / "README.md").read_text(), "copy what `python -m benchmarks.results_chart` prints"


def test_the_chinese_table_has_the_same_numbers_and_links(measured: list[Measured]) -> None:
    rows = [line for line in (ROOT / "README.zh.md").read_text().splitlines() if line.startswith("| [")]
    assert len(rows) == len(measured)
    for line, row in zip(rows, measured, strict=True):
        title, *numbers = line.removeprefix("| ").removesuffix(" |").split(" | ")
        assert f"](docs/results/{row.experiment.page}.md)" in title and numbers == cells(row)


def test_a_row_can_be_checked_by_hand(measured: list[Measured]) -> None:
    """One run, 400 episodes: 337 succeed after BC, 358 after imagination (docs/results/minigrid.json)."""
    demo = measured[0]
    assert demo.policies["cloning"].value == 337 / 4 and demo.policies["imagination"].value == 358 / 4
    assert demo.gain.value == pytest.approx(21 / 4)
    assert demo.shuffled_gain is None


def test_the_control_is_paired_with_its_own_seeds(measured: list[Measured]) -> None:
    one_gpu = measured[-1]  # the control was trained for seed 0 alone, whose BC has 22.3; three seeds have 22.6
    assert one_gpu.shuffled_gain is not None
    assert one_gpu.shuffled_gain.value == pytest.approx(one_gpu.policies["shuffled"].value - 22.3, abs=0.06)
