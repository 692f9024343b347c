"""Results, pictures and the report: what goes in comes out, whole, and without a network."""

import html
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embody.config import to_dict
from embody.errors import UserError
from embody.evaluation.compare import compare_runs
from embody.evaluation.report import write_report
from embody.evaluation.results import evaluation_of, results_markdown
from embody.evaluation.verdict import verdict
from embody.games import game, games
from embody.games.minigrid.evaluation import TARGETS
from embody.games.minigrid.presets import minigrid
from embody.games.success import Demonstrations, summary
from embody.metrics.charts import Bar, Line, bar_chart, line_chart, smooth
from embody.metrics.pictures import (
    Film,
    action_captions,
    dream_gif,
    png,
    read_films,
    read_pairs,
    write_films,
    write_pairs,
)
from embody.metrics.policies import POLICIES
from embody.metrics.results_file import lookup, read_results, write_results
from embody.metrics.tables import duration

DOOR, GOTO = "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToLocalS5N2-v0"


def some_results() -> dict[str, Any]:
    policies = {
        "random": {DOOR: (0, 100), GOTO: (29, 100)},
        "cloning": {DOOR: (40, 100), GOTO: (80, 100)},
        "imagination": {DOOR: (39, 100), GOTO: (85, 100)},
    }
    recorded = Demonstrations({DOOR: (9, 10), GOTO: (5, 10)}, {0.0: {DOOR: (5, 5)}, 0.5: {GOTO: (5, 10)}})
    return {
        "game": "minigrid",
        "tokenizer": {"psnr_db": 30.5, "cell_accuracy": 0.969},
        "dynamics": {
            "gain_over_copy_db": 2.0,
            "changed_cell_accuracy_h10": 0.7,
            "reward_recall": None,
            "horizon": {
                "psnr_db": [30.0, 29.0, 28.0],
                "copy_psnr_db": [None, 27.0, 26.0],
                "changed_cell_accuracy": [0.9, 0.8, None],
                "ssim": [0.95, 0.9, 0.85],
                "copy_ssim": [0.9, 0.8, 0.7],
                "lpips": [None, None, None],
                "frechet": [0.001, None, 0.25],
            },
            "psnr_db": 29.0,
            "copy_psnr_db": 27.0,
            "ssim": 0.9,
            "copy_ssim": 0.8,
            "lpips": None,
            "copy_lpips": None,
            "frechet": 0.0123,
            "copy_frechet": 1.5,
            "rewards_within": {
                "tolerance": 2,
                "rewards": 20,
                "predicted": 10,
                "precision": 0.5,
                "recall": 0.25,
                "tasks": {DOOR: {"rewards": 5, "predicted": 0, "precision": None, "recall": 0.0}},
            },
            "returns": {
                "contexts": 64,
                "recorded_mean": 0.5,
                "imagined": {"correlation": 0.75, "mean_error": -0.125, "mean_absolute_error": 0.25},
                "value": {"correlation": None, "mean_error": 0.0625, "mean_absolute_error": 0.5},
            },
        },
        "dynamics_before_agent": {"ssim": 0.91},
        "against_cloning": {"imagination": {"value": 0.02, "low": -0.055, "high": 0.1, "p": 0.0004, "p_seeds": None}},
        "success": summary(policies, recorded),
        "wall_seconds": 1500.0,
        "stage_seconds": {"tokenizer": 400.0, "dynamics": 1100.0},
        "seed": 7,
        "command": "embody run minigrid --a '<b>'",
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "a 6502", "cores": 2},
    }


# --- results --------------------------------------------------------------------------------------------------------


def test_results_survive_the_file_and_nan_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, {"a": {"b": np.float32(0.5), "n": np.int64(3)}, "c": [math.nan, math.inf, 1], "d": np.ones(2)})
    assert read_results(path) == {"a": {"b": 0.5, "n": 3}, "c": [None, None, 1], "d": [1.0, 1.0]}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match="results.json is damaged"):
        read_results(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        read_results(path)


def test_lookup() -> None:
    assert lookup({"a": {"b": 1}}, "a.b") == 1
    assert lookup({"a": {"b": 1}}, "a.b.c") is None and lookup({}, "a.b") is None


def test_targets_tell_reached_from_short() -> None:
    verdicts = {target.key: target.reached(some_results()) for target in TARGETS}
    assert verdicts["tokenizer.psnr_db"] is True
    assert verdicts["tokenizer.cell_accuracy"] is False  # 96.9% of 97%
    assert verdicts["dynamics.gain_over_copy_db"] is True  # exactly at the bound
    assert verdicts["dynamics.reward_recall"] is None
    assert verdicts["success.cloning.mean"] is True  # 60% against twice 14.5%
    assert verdicts["success.imagination.mean"] is True
    assert verdicts[f"success.imagination.tasks.{DOOR}.mean"] is False  # 39% is not above 40%
    assert verdicts["success.shuffled_rewards.mean"] is None
    assert verdicts["wall_seconds"] is True


def on_door_key(cloning: float, imagination: float) -> dict[str, Any]:
    rates = {"cloning": cloning, "imagination": imagination}
    return {"success": {policy: {"tasks": {DOOR: {"mean": mean}}} for policy, mean in rates.items()}}


def test_above_is_not_below_once_nothing_is_above() -> None:
    (above,) = (target for target in TARGETS if target.relation == "above")
    assert above.reached(on_door_key(0.4, 0.4)) is False and above.reached(on_door_key(0.4, 0.41)) is True
    assert above.text(on_door_key(0.4, 0.4)) == "above 40.0% (behaviour cloning's)"
    assert above.reached(on_door_key(1.0, 1.0)) is True and above.reached(on_door_key(1.0, 0.99)) is False
    assert above.text(on_door_key(1.0, 1.0)) == "at least 100.0% (behaviour cloning's; the most that is possible)"


class Best(dict[str, Any]):
    """Results in which every number is as good as it can be."""

    def get(self, key: str, default: Any = None) -> Any:
        return 0.0 if key == "wall_seconds" else math.inf if key in UNBOUNDED else 1.0 if key in RATES else self


UNBOUNDED = ("psnr_db", "gain_over_copy_db", "action_shuffle_ratio", "action_shuffle_ratio_noised")
RATES = (
    *("cell_accuracy", "changed_cell_accuracy_h10"),
    *("reward_recall", "reward_precision", "mean", "low", "high"),
)


@pytest.mark.parametrize("name", [*games(), "none"])
def test_a_run_at_the_ceiling_meets_every_target(name: str) -> None:
    best = Best()
    for target in game(name).evaluation().targets:
        assert lookup(best, target.key) == (target.ceiling if target.key != "wall_seconds" else 0.0), target
        if target.bound(best) is not None:
            assert target.reached(best) is True, target.title
        assert target.meaning.endswith(".") and len(target.meaning) > 20, target.title


def test_a_bound_beyond_the_ceiling_is_the_ceiling() -> None:
    (twice,) = (target for target in TARGETS if target.key == "success.cloning.mean")
    results = {"success": {"random": {"mean": 0.6}, "cloning": {"mean": 1.0}}}
    assert twice.text(results) == "at least 100.0% (twice the random policy's; the most that is possible)"
    assert twice.reached(results) is True


def test_a_control_within_the_interval_of_cloning_meets_its_target() -> None:
    (control,) = (target for target in TARGETS if target.key == "success.shuffled_rewards.mean")
    found = {"cloning": {"mean": 0.6, "high": 0.65}}
    verdicts = [control.reached({"success": found | {"shuffled_rewards": {"mean": rate}}}) for rate in (0.64, 0.66)]
    assert verdicts == [True, False]


@pytest.mark.parametrize("name", ["minecraft", "crafter", "none"])
def test_targets_are_minigrids(name: str) -> None:
    others = some_results() | {"game": name}
    shown = evaluation_of(others).targets
    assert {target.reached(others) for target in shown} == {None} and not any(t.text(others) for t in shown)
    assert evaluation_of(some_results()).targets == TARGETS
    table = results_markdown(others)
    assert "| Imagination: success | 62.0% |  |  |" in table and "ells" not in table and "DoorKey |" not in table


def test_every_target_key_can_be_found() -> None:
    results = some_results()
    results["success"]["shuffled_rewards"] = results["success"]["cloning"]
    results["dynamics"] |= {"reward_recall": 0.5, "reward_precision": 0.5, "action_shuffle_ratio": 1.0}
    results["dynamics"]["action_shuffle_ratio_noised"] = 1.0
    results["dynamics_before_agent"] |= {"gain_over_copy_db": 3.0, "changed_cell_accuracy_h10": 0.7}
    assert [t.key for t in TARGETS if lookup(results, t.key) is None] == []
    assert all(t.show(lookup(results, t.key)) in results_markdown(results) for t in TARGETS)


def test_table_holds_the_numbers() -> None:
    table = results_markdown(some_results())
    assert "| Tokenizer: PSNR | 30.5 dB | at least 30.0 dB | yes |" in table
    assert "| Tokenizer: cells right | 96.9% | at least 97.0% | **no** |" in table
    assert "- **imagination**: The same policy after" in table
    assert "| random | 14.5% (10-20) | 0.0% (0-4) | 29.0% (21-39) | 200 |" in table
    assert "| 50% random | 50.0% (24-76) | 10 |" in table
    assert "| PSNR, copy | - | 27.0 dB |" in table
    assert "| imagination | +2.0 (-5.5 to +10.0) | <0.001 |" in table
    assert "| SSIM (higher is better) | 0.9 | 0.8 | 0.91 |" in table
    assert "| LPIPS (lower is better) | not measured | - | - |" in table and "needs `embody weights lpips`" in table
    assert "| LPIPS, dream |" not in table and "| Frechet distance, dream | 0.001 | - |" in table
    assert "| DoorKey-6x6 | 0.0% (0-43) | 5 | - | 0 |" in table
    assert "| all | 25.0% (11-47) | 20 | 50.0% (24-76) | 10 |" in table
    assert "| 64 contexts, mean recorded return 0.500 | correlation |" in table
    assert "| dream under the recorded actions | 0.75 | -0.125 | 0.250 |" in table
    assert "| value head | - | +0.062 | 0.500 |" in table
    assert "## Rewards in dreams" in table and "late by 2 timesteps" in table
    for block in table.strip().split("\n\n"):
        assert not block.startswith("|") or len({line.count("|") for line in block.split("\n")}) == 1, block
    assert results_markdown({}).startswith("**Nothing has been measured yet.**")


def test_duration() -> None:
    assert [duration(s) for s in (4.21, 42.4, 59.7, 185, 3725)] == [
        "4.2 s",
        "42 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 02 min",
    ]


# --- the verdict ----------------------------------------------------------------------------------------------------


def compared(
    value: float, low: float, high: float, cloning: float = 0.842, imagination: float = 0.895
) -> dict[str, Any]:
    """Results whose difference between the two policies is that."""
    rates = {"cloning": cloning, "imagination": imagination}
    rows = {policy: {"mean": mean, "low": 0.0, "high": 1.0, "episodes": 400} for policy, mean in rates.items()}
    return {"success": rows, "against_cloning": {"imagination": {"value": value, "low": low, "high": high}}}


def measured(low: float, high: float, policy: str = "cloning") -> dict[str, Any]:
    """Results with one trained policy of that interval, beside a random one of 10% to 20%."""
    rates = {"random": (0.1, 0.2), policy: (low, high)}
    return {"success": {p: {"mean": (a + b) / 2, "low": a, "high": b} for p, (a, b) in rates.items()}}


def world(gain: float | None) -> dict[str, Any]:
    return {
        "tokenizer": {"psnr_db": 31.0},
        "dynamics": {"gain_over_copy_db": gain, "psnr_db": 30.0, "copy_psnr_db": 20.0},
    }


@pytest.mark.parametrize(
    ("results", "outcome", "words"),
    [
        (
            compared(0.053, 0.022, 0.083),
            "better",
            "Imagination raised success from 84.2% to 89.5% (+5.3 points, 95% interval 2.2 to 8.3)",
        ),
        (
            compared(-0.05, -0.08, -0.02, imagination=0.792),
            "worse",
            "Imagination lowered success from 84.2% to 79.2% (-5.0 points, 95% interval -8.0 to -2.0)",
        ),
        (
            compared(0.008, -0.011, 0.03),
            "unclear",
            "No clear difference: success is 84.2% after behaviour cloning",
        ),
        (compared(0.02, 0.0, 0.03), "unclear", "No clear difference"),
        (compared(-0.02, -0.03, 0.0), "unclear", "No clear difference"),
        (compared(0, 0, 0, 1, 1), "unclear", "No clear difference: success is 100% after behaviour cloning and"),
        (compared(0, 0, 0, 0, 0), "unclear", "Neither policy has learned the task: success is 0%"),
        (
            measured(0.5, 0.7),
            "better",
            "After behaviour cloning, success is 60.0% (95% interval 50.0 to 70.0), above the",
        ),
        (measured(0.15, 0.3), "unclear", "no different from the random policy's 15.0%"),
        (measured(0.0, 0.05), "worse", "below the random policy's 15.0%"),
        (measured(0.5, 0.7, "imagination"), "better", "After imagination, success is 60.0%"),
        (world(10.0), "better", "Dreams are 10.0 dB above copying the last frame"),
        (world(-1.5), "worse", "Dreams are 1.5 dB below copying the last frame: they predict no better than a still"),
        (world(0.0), "worse", "no better than a still picture"),
        (world(None), "unclear", "The tokenizer reconstructs held-out frames at 31.0 dB PSNR"),
        ({"tokenizer": {"psnr_db": None}}, "unclear", "reconstructs held-out frames without an error"),
        (world(10.0) | {"success": {"random": {"mean": 0.1, "low": 0.0, "high": 0.2}}}, "better", "Dreams are 10.0 dB"),
        ({}, "unclear", "Nothing has been measured yet"),
    ],
)
def test_the_verdict_says_in_words_whether_it_worked(results: dict[str, Any], outcome: str, words: str) -> None:
    found = verdict(results)
    assert words in found.headline and found.outcome == outcome
    assert found.details and all(sentence.endswith(".") for sentence in found.details)


def test_the_verdict_says_what_the_numbers_are_to_be_seen_against() -> None:
    results = some_results()
    results["success"]["shuffled_rewards"] = {"mean": 0.59}
    results["against_cloning"]["shuffled_rewards"] = {"value": -0.01, "low": -0.0475, "high": 0.03}
    details = " ".join(verdict(results, "the rate").details)
    assert "the same 200 held-out episodes" in details and "`embody compare`" in details
    assert "the random policy 14.5%, the held-out demonstrations 70.0%" in details
    assert "shuffled rewards: 59.0% (-1.0 points against behaviour cloning, 95% interval -4.8 to 3.0)" in details
    assert "Dreams are 2.0 dB above copying the last frame. PSNR over horizons 1-10" in details
    assert "is unknown: the results hold no training in imagination" in " ".join(verdict(measured(0.1, 0.2)).details)


def test_the_verdict_shows_the_interval_that_contains_zero() -> None:
    difference = "The difference is +0.8 points, 95% interval -1.1 to 3.0, which contains 0."
    assert verdict(compared(0.008, -0.011, 0.03)).details[0] == difference


def test_crafter_calls_its_rate_otherwise() -> None:
    table = results_markdown(some_results() | {"game": "crafter"})
    assert table.startswith("**No clear difference: the achievement rate is 60.0% after")


# --- charts ---------------------------------------------------------------------------------------------------------


def test_smooth_keeps_ends_lines_and_means() -> None:
    line = [2.0 * i + 1 for i in range(100)]
    assert smooth(line, 0.2) == pytest.approx(line)
    noisy = np.random.default_rng(0).normal(size=1000)
    smoothed = smooth(noisy.tolist(), 0.05)
    assert smoothed[0] == pytest.approx(noisy[0]) and smoothed[500] == pytest.approx(noisy[475:526].mean())


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    """The pieces of all lines in a chart or page, without its grid: gaps part a line."""
    drawn = re.findall(r'<path d="([^"]+)" style="fill: none; [^"]*stroke: var\(--[a-e],', svg)
    pieces = [piece.split(" L ") for path in drawn for piece in path.strip().split("M ")[1:]]
    points = [[(float(x), float(y)) for x, y in map(str.split, piece)] for piece in pieces]
    return [piece for piece in points if abs(piece[-1][0] - piece[0][0] - 16.8) > 0.01]  # a legend's


def lines_of(*lines: Line, **options: Any) -> list[list[tuple[float, float]]]:
    chart = line_chart("t", lines, "x", **options)
    assert chart
    return polylines(chart.svg)


def test_line_chart_puts_values_where_they_belong() -> None:
    (line,) = lines_of(Line("l", [0, 1, 2], [0.0, 1.0, 4.0]))
    xs, ys = zip(*line, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.01)
    assert (ys[0] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(0.25, abs=0.001)  # SVG's y points down
    (logged,) = lines_of(Line("l", [0, 1, 2], [1.0, 10.0, 100.0]), log=True)
    assert logged[0][1] - logged[1][1] == pytest.approx(logged[1][1] - logged[2][1], abs=0.01)
    gap = lines_of(Line("l", range(7), [1.0, 2.0, None, 3.0, None, 3.0, 4.0]))
    assert [len(piece) for piece in gap] == [2, 2, 2]
    assert gap[1][0] == gap[1][1]  # one point between gaps: a dot
    assert line_chart("t", [Line("l", [0, 1], [None, None])], "x") is None
    assert len(lines_of(Line("l", range(10_000), [0.5] * 10_000))[0]) <= 300
    (pinned,) = lines_of(Line("l", [0, 1], [8.0, 9.0]), low=0)
    assert pinned[0][1] - pinned[1][1] < 20


def test_line_chart_names_its_lines_and_numbers() -> None:
    lines = [Line("ours", [0, 1000], [0.25, 0.5], "b"), Line("<theirs>", [0, 1000], [0.5, 1], "e")]
    chart = line_chart(
        "loss & co", [*lines, Line("faint", [0, 1000], [0.5, 1], "raw")], "step", show=lambda y: f"{y:.0%}"
    )
    spoken = 'role="img" aria-label="loss &amp; co: ours from 25% to 50%, &lt;theirs&gt; from 50% to 100%"'
    assert chart and chart.title == "loss & co" and spoken in chart.svg
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", chart.svg)
    assert {"1k", "step", "ours", "&lt;theirs&gt;", "40%", "80%"} <= set(texts) and "faint" not in texts
    log = line_chart("loss", [Line("l", [0, 1], [0.001, 10.0])], "step", log=True)
    assert (
        log and log.title == "loss (log scale)" and {"0.001", "0.1", "10"} <= set(re.findall(r">([^<]*)</t", log.svg))
    )


def test_bar_chart_lengths_and_whiskers() -> None:
    chart = bar_chart("t", [Bar("half", 0.5, 0.25, 0.75), Bar("all", 1.0, 0.9, 1.0, "b")])
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ L ([\d.]+) [^"]*" style="fill: var\(--(\w)', chart.svg)
    (left, middle), (also_left, right) = ((float(low), float(high)) for low, high, _ in bars)
    assert [style for *_, style in bars] == ["a", "b"] and left == also_left
    width = right - left
    assert middle - left == pytest.approx(width / 2)
    whiskers = re.findall(r'<path d="([^"]*)" style="fill: none; stroke: var\(--ink', chart.svg)
    ends = [[float(point.split()[0]) for point in path.strip("M ").split(" L ")] for path in whiskers]
    assert [(path[0] - left, path[-1] - left) for path in ends] == pytest.approx(
        [pytest.approx((width / 4, width * 3 / 4)), pytest.approx((0.9 * width, width))]
    )
    assert ">50%<" in chart.svg and ">100%<" in chart.svg and ">half<" in chart.svg
    assert 'aria-label="t: half 50% (25% to 75%), all 100% (90% to 100%)"' in chart.svg


def test_a_program_that_draws_nothing_does_not_import_matplotlib() -> None:
    program = (
        "import sys, embody.metrics.charts, embody.games.minigrid.evaluation; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_charts_repeat_follow_the_page_and_need_nothing_else() -> None:
    def charts() -> list[str]:
        line = line_chart("t", [Line("l", [0, 1], [1.0, 2.0]), Line("m", [0, 1], [1.0, None], "e")], "x")
        assert line
        return [line.svg, bar_chart("t", [Bar("half", 0.5, 0.25, 0.75)]).svg]

    for svg in charts():
        assert "http" not in svg and " id=" not in svg and "href" not in svg and "<style" not in svg
        assert set(re.findall(r".{16}#[0-9a-f]{6}", svg)) and not re.search(r"(?<!var\(--)(?<!, )#[0-9a-f]{6}", svg)
    assert charts() == charts()


# --- pictures -------------------------------------------------------------------------------------------------------


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 8, 16, 3), dtype=np.uint8)


def test_png_lays_frames_out_exactly() -> None:
    frames = noise(2, 3)
    image = np.asarray(Image.open(io.BytesIO(png(frames))))
    assert image.shape == (16, 48, 3)
    np.testing.assert_array_equal(image[8:, 16:32], frames[1, 1])


def test_films_and_pairs_survive_the_file(tmp_path: Path) -> None:
    film = Film("go to <the> ball", {"real": noise(4), "imagined": noise(4)[::-1]}, ("", "left", "right", "é"), 2)
    single = Film("alone", {"agent": noise(2)}, ("", "done"))
    write_films(tmp_path / "dreams.npz", [film, single])
    first, second = read_films(tmp_path / "dreams.npz")
    assert (first.title, first.captions, first.given) == (film.title, film.captions, 2)
    assert list(first.strips) == ["real", "imagined"] and list(second.strips) == ["agent"] and second.given == 0
    np.testing.assert_array_equal(first.strips["imagined"], film.strips["imagined"])
    write_pairs(tmp_path / "pairs.npz", noise(3), noise(3) // 2)
    np.testing.assert_array_equal(read_pairs(tmp_path / "pairs.npz")[1], noise(3) // 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dreams.npz", "pairs.npz"]
    with pytest.raises(ValueError, match="pairs.npz holds no films"):
        read_films(tmp_path / "pairs.npz")
    (tmp_path / "dreams.npz").write_bytes(b"PK\x03\x04half")
    with pytest.raises(ValueError, match="dreams.npz: cannot be read"):
        read_films(tmp_path / "dreams.npz")
    with pytest.raises(AssertionError, match="film 'x'"):
        Film("x", {"real": noise(4)}, ("", "left"))


def test_action_captions() -> None:
    names = [("left", "right"), ("up", "down", "stay")]
    assert action_captions(np.array([[0, 0], [1, 2], [0, 1]]), names) == ("", "right, stay", "left, down")


def test_dream_gif_moves_and_shows_real_over_imagined(tmp_path: Path) -> None:
    real = np.zeros((2, 3, 8, 8, 3), np.uint8)
    real[:, 1, ..., 0], real[:, 2, ..., 1] = 255, 255
    imagined = real.copy()
    imagined[:, 2] = (0, 0, 255)
    dream_gif(tmp_path / "dream.gif", real, imagined, given=2, scale=4, milliseconds=100)
    gif = Image.open(tmp_path / "dream.gif")
    assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.info["duration"] == 100  # type: ignore[attr-defined]
    orange = [0, 0, 0]
    for timestep in range(3):
        gif.seek(timestep)
        orange[timestep] = int((np.asarray(gif.convert("RGB")) == (217, 95, 2)).all(axis=2).sum())
    assert orange[:2] == [0, 0] and orange[2] > 2 * 4 * 32  # the frame around what was imagined
    last = np.asarray(gif.convert("RGB")).astype(int)
    colours = {tuple(pixel) for pixel in last.reshape(-1, 3)}
    green, blue = (np.argwhere((last == colour).all(axis=2)) for colour in ((0, 255, 0), (0, 0, 255)))
    assert len(green) == len(blue) == 2 * 32 * 32, colours
    assert green[:, 0].max() < blue[:, 0].min()
    assert [p.name for p in tmp_path.iterdir()] == ["dream.gif"]


# --- the report -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that tags close in order, and collects attributes and text."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})
    OPTIONAL = frozenset({"tr", "td", "th", "tbody"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] != tag and self.open[-1] in self.OPTIONAL:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a whole run."""
    return write_report(make_run(tmp_path_factory.mktemp("runs"))).read_text(encoding="utf-8")


def make_run(folder: Path) -> Path:
    run = folder / "demo"
    (run / "pictures").mkdir(parents=True)
    write_results(run / "results.json", some_results())
    (run / "config.json").write_text(json.dumps(to_dict(minigrid())))
    lines = [
        {"stage": "tokenizer", "step": i, "time": 1.0, "loss": 2.0 / (1 + i), "lr": 1e-3, "bad": math.nan}
        for i in range(100)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "tok')
    film = Film("go to <the> ball", {"real": noise(4), "imagined": noise(4)}, ("", "left", 'a "b"', "c"), 2)
    write_films(run / "pictures" / "dreams.npz", [film])
    write_films(run / "pictures" / "episodes-0.npz", [Film("alone", {"agent": noise(2)}, ("", "done"))])
    write_pairs(run / "pictures" / "reconstructions.npz", noise(3), noise(3))
    (run / "pictures" / "more_of_it.png").write_bytes(png(noise(1, 1)))
    return run


def test_report_is_whole_and_needs_no_network(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html" and not list(run_dir.glob(".*"))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    for tag, key, value in page.attributes:
        if key in ("src", "href"):
            assert value.startswith(("data:image/", "#")), (tag, key, value[:50])
    for url in re.findall(r"url\(([^)]{0,30})", text):
        assert url.startswith("data:image/"), url
    for words in ("30.5 dB", "96.9%", "25 min 00 s", "DoorKey-6x6", "embody run minigrid --a '<b>'", "cpu a 6502"):
        assert words in page.text, words
    assert "missing" not in page.text
    assert sum(tag == "img" and key == "src" for tag, key, _ in page.attributes) == 3 * 2 + 1
    captions = [json.loads(value) for _, key, value in page.attributes if key == "data-captions"]
    assert captions == [["", "left", 'a "b"', "c"], ["", "done"]]
    assert "go to <the> ball" in page.text and "more of it" in page.text
    assert "dynamics.trunk" not in page.text and "trunk.width" in page.text  # sections, nested fields flattened


def test_report_draws_the_logged_curve_and_skips_what_is_not_finite(report: str) -> None:
    training = report[report.index("<h3>Training curves</h3>") : report.index('<h2 id="tables">')]
    raw, smoothed, *others = polylines(training)
    assert len(raw) == len(smoothed) == 100 and len(others) == 2  # loss, then lr; "bad" is never finite
    assert "log scale" in training and "<figcaption>bad" not in training
    assert raw[0][1] < raw[-1][1]  # falling: larger y is lower on the page


def test_report_shows_the_worlds_quality(report: str) -> None:
    world = report[report.index("<h3>Dreams against the horizon") : report.index("<h3>Originals and")]
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", world)
    assert captions == [
        "PSNR, dB (higher is better)",
        "SSIM (1 is equal)",
        FRECHET,
        "Changed cells right (a copy has 0%)",
    ]
    ssim, frechet = (
        world[world.index(f"<figcaption>{caption}") :].partition("</figure>")[0] for caption in captions[1:3]
    )
    ours, copied = polylines(ssim)
    assert len(ours) == len(copied) == 3 and ours[0][1] < copied[0][1]  # higher on the page
    assert [len(piece) for piece in polylines(frechet)] == [2]  # no gap where a horizon was not measured
    words = Page(report).text
    for row in (
        "Frechet distance of random features (lower is better) 0.0123 1.5 -",
        "all 25.0% (11-47) 20",
        "value head",
    ):
        assert row in " ".join(words.split()), row
    assert "imagination +2.0 (-5.5 to +10.0) <0.001" in " ".join(words.split())


FRECHET = "Frechet distance of random features (0 is equal)"


def test_report_begins_with_the_verdict_then_pictures_then_tables(report: str) -> None:
    headline = verdict(some_results()).headline
    places = [report.index(part) for part in (f"<h1>{headline}.", "<code>embody run", 'id="pictures"', 'id="tables"')]
    assert places == sorted(places)
    pictures, tables = report[places[2] : places[3]], report[places[3] : report.index('id="settings"')]
    assert "<svg" in pictures and 'class="player"' in pictures and "<table" not in pictures
    assert "<table" in tables and "<svg" not in tables and "<img" not in tables
    for target in TARGETS:
        if lookup(some_results(), target.key) is not None:
            assert html.escape(target.meaning, quote=False).replace("'", "&#39;") in tables, target.title


def test_report_explains_every_policy_that_it_shows(run_dir: Path) -> None:
    results = some_results()
    for control in ("no_world_model", "best_demonstrations", "shuffled_rewards"):
        results["success"][control] = results["success"]["cloning"]
    write_results(run_dir / "results.json", results)
    words = " ".join(Page(write_report(run_dir).read_text(encoding="utf-8")).text.split())
    for policy in POLICIES.values():
        assert f"{policy.title} {policy.meaning}" in words, policy.title


def test_report_can_be_used_with_a_keyboard_and_a_screen_reader(report: str) -> None:
    page = Page(report)
    assert ("html", "lang", "en") in page.attributes

    def of(tag: str, key: str) -> list[str]:
        return [value for found, name, value in page.attributes if (found, name) == (tag, key)]

    scrolled = sum(value == "wide" for value in of("div", "class"))
    assert scrolled and of("div", "tabindex") == ["0"] * scrolled  # a table that scrolls can be reached with Tab
    labels = of("div", "aria-label")
    assert len(labels) == scrolled + 3 and all(labels)  # and each strip of a film has its name
    assert {"col", "row"} == set(of("th", "scope"))
    assert all(of("svg", "aria-label")) and len(of("svg", "aria-label")) == len(of("svg", "role"))
    assert all(of("img", "alt")) and of("input", "aria-label") == ["timestep"] * 2
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert of("a", "href") == [f"#{name}" for name in ids]


def test_report_of_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for sentence in (
        "Nothing has been measured yet",
        "results.json is missing",
        "metrics.jsonl is missing",
        "config.json is missing",
        "No policy",
    ):
        assert sentence in page.text
    with pytest.raises(ValueError, match="no run in"):
        write_report(tmp_path / "nowhere")


def test_report_names_a_damaged_file_and_keeps_the_old_report(run_dir: Path) -> None:
    before = write_report(run_dir).read_bytes()
    (run_dir / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json"):
        write_report(run_dir)
    assert (run_dir / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        {"success": 3},
        {"success": {"cloning": []}},
        {"success": {"imagination": {"mean": "x"}, "cloning": {"mean": None}}},
        {"dynamics": {"gain_over_copy_db": "x"}},
        {"dynamics": {"horizon": {"psnr_db": "abc"}}},
        {"wall_seconds": "x"},
        {"stage_seconds": {"a": "b"}},
        {"machine": 4},
        {"game": "none such"},
        {"command": "a\nb"},
        {"machine": {"\x1b[31m": "x"}},
    ],
    ids=str,
)
def test_results_of_another_form_end_in_one_line(run_dir: Path, other: dict[str, Any]) -> None:
    write_results(run_dir / "results.json", some_results() | other)
    with pytest.raises(UserError) as refusal:
        write_report(run_dir)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "outcomes",
    [{"seeds": [1]}, {"seeds": {"a": [1]}, "achieved": 3}, {"seeds": {"a": [1]}, "achieved": {"cloning": {"a": 5}}}],
    ids=str,
)
def test_a_comparison_of_results_of_another_form_ends_in_one_line(tmp_path: Path, outcomes: Any) -> None:
    write_results(tmp_path / "results.json", {"seed": {}, "outcomes": outcomes})
    with pytest.raises(UserError, match="results.json has (results of another version|no policy in common)"):
        compare_runs([tmp_path / "results.json"])


def test_report_escapes_what_it_is_given(run_dir: Path) -> None:
    results = some_results() | {"machine": {"cpu": "<script>alert(1)</script>"}}
    write_results(run_dir / "results.json", results)
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "<script>alert" not in text and html.escape("<script>alert(1)</script>") in text
