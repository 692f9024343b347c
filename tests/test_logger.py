"""The logger's files, and how a resumed run continues them."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embody.logger_manager import LoggerManager, read_metrics


def make(root: Path) -> LoggerManager:
    return LoggerManager(root / "run", root / "logs", "demo")


def test_messages_go_to_console_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(tmp_path)
    logger.info("three [tasks] of /a/very/long/path" + "/more" * 40)
    logger.warning("careful")
    logger.close()
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["three [tasks] of /a/very/long/path" + "/more" * 40, "warning: careful"]
    assert logger.log_path.parent == tmp_path / "logs" and logger.log_path.name.startswith("demo-")
    info, warning = logger.log_path.read_text().splitlines()
    assert "INFO three [tasks]" in info and "WARNING careful" in warning


FORGED = "a\n2026-01-01 00:00:00 INFO all is well\x1b[31m\udcff[/nope]"


def test_a_name_cannot_forge_a_line_or_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = make(tmp_path)
    logger.info(f"changed {FORGED}")
    logger.warning(f"skipped {FORGED}")
    with logger.progress(FORGED, total=1) as bar:
        bar.advance(note=FORGED)
    logger.lines("| a |\n| \x1b |")
    with (tmp_path / "terminal").open("w", encoding="utf-8") as file:
        logger.console = Console(file=file, force_terminal=True, width=200)
        with logger.progress(FORGED, total=1) as bar:
            bar.advance(note=FORGED)
    logger.close()
    for text in (capsys.readouterr().out, logger.log_path.read_text()):
        assert "\x1b" not in text and all("all is well" not in line[:35] for line in text.splitlines()), text
        assert r"changed a\n2026-01-01 00:00:00 INFO all is well\x1b[31m\udcff[/nope]" in text
    assert "\x1b[31m\\udcff" not in (tmp_path / "terminal").read_text()


def test_metrics_reach_json_and_tensorboard(tmp_path: Path) -> None:
    logger = make(tmp_path)
    logger.metrics("tokenizer", 10, {"loss": 0.5, "psnr": 20})
    logger.metrics("tokenizer", 20, {"loss": 0.25})
    logger.metrics("dynamics", 10, {"loss": 3.0})
    with pytest.raises(AssertionError, match="must not be named .'step'"):
        logger.metrics("tokenizer", 30, {"step": 1.0})
    logger.close()
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(m["stage"], m["step"], m["loss"]) for m in lines] == [
        ("tokenizer", 10, 0.5),
        ("tokenizer", 20, 0.25),
        ("dynamics", 10, 3.0),
    ]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "tokenizer")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("tokenizer/loss")] == [(10, 0.5), (20, 0.25)]


def test_a_resumed_stage_leaves_no_duplicates(tmp_path: Path) -> None:
    killed = make(tmp_path)
    for step in (10, 20, 30):
        killed.metrics("tokenizer", step, {"loss": float(step)})
        killed.metrics("dynamics", step, {"loss": float(step)})
    killed.close()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tokenizer", "st')  # died while writing
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 6
    logger = make(tmp_path)
    logger.truncate("tokenizer", 20)
    logger.metrics("tokenizer", 30, {"loss": -1.0})
    logger.close()
    lines = read_metrics(logger.metrics_path)
    assert [(m["step"], m["loss"]) for m in lines if m["stage"] == "tokenizer"] == [(10, 10), (20, 20), (30, -1)]
    assert [m["step"] for m in lines if m["stage"] == "dynamics"] == [10, 20, 30]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "tokenizer")).Reload()
    assert [event.value for event in board.Scalars("tokenizer/loss")] == [10, 20, -1]


def test_a_half_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "a", "step": 1}\n{"stage": "a", "st')
    logger = make(tmp_path)
    logger.metrics("a", 2, {})
    logger.close()
    assert [m["step"] for m in read_metrics(logger.metrics_path)] == [1, 2]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_progress_in_a_file_and_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = make(tmp_path)
    with logger.progress("tokenizer", total=30, start=10) as bar:
        for _ in range(20):
            bar.advance(note="loss 0.1")
    text = logger.log_path.read_text()
    assert text.count("\n") == 1 and "tokenizer 30/30" in text and "loss 0.1" in text and "0:00:00 left" in text
    monkeypatch.setattr("embody.logger_manager.QUIET_SECONDS", 0.0)
    with logger.progress("dynamics", total=4) as bar:
        bar.advance(3)
    assert "dynamics 3/4" in logger.log_path.read_text()
    with (tmp_path / "terminal").open("w") as file:
        logger.console = Console(file=file, force_terminal=True, width=120)
        with logger.progress("agent", total=4) as bar:
            bar.advance(4, note="[loss] 0.2")
    shown = (tmp_path / "terminal").read_text()
    assert "agent" in shown and "4/4" in shown and "[loss] 0.2" in shown and "elapsed" not in shown
    lines = [line for line in logger.log_path.read_text().splitlines() if "agent 4/4" in line]
    assert len(lines) == 2 and all("[loss] 0.2" in line for line in lines)  # on its way, and at the end
    logger.close()
