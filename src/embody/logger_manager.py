"""The output of a run: console, log file, metrics as JSON lines and for TensorBoard, progress bars."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from embody.errors import one_line
from embody.saving.atomic_write import open_to_append, write_text, writing
from embody.saving.json_files import MOST_BYTES, open_regular, parse_json

if TYPE_CHECKING:
    from embody.saving.scalars import ScalarWriter

__all__ = ["LoggerManager", "ProgressBar", "drop_half_line", "read_metrics"]

QUIET_SECONDS = 30.0  # seconds between two progress lines in the log file


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, oldest first; empty if there is no file. A half-written line is skipped,
    and so is any line that is no JSON object."""
    if not path.exists():
        return []
    lines = []
    with open_regular(path) as file:
        while text := file.readline(MOST_BYTES):
            try:
                line = parse_json(text, nan=True)  # as versions before wrote them
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class ProgressBar:
    """A progress bar: a count towards a total. Made by `LoggerManager.progress`."""

    def __init__(self, logger: "LoggerManager", description: str, total: int, start: int, bar: Progress | None) -> None:
        self.logger, self.description, self.total, self.done, self.bar = logger, description, total, start, bar
        self.start, self.began = start, time.monotonic()
        self.last_line = self.began
        self.note = ""
        if bar is not None:
            self.task = bar.add_task(one_line(description), total=total, completed=start, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more. `note` (such as a loss) is shown beside the bar until the next one replaces it."""
        self.done += steps
        self.note = self.note if note is None else note
        if self.bar is not None:
            self.bar.update(self.task, advance=steps, note=one_line(self.note))
        if time.monotonic() - self.last_line >= QUIET_SECONDS:
            self.write_line()

    def write_line(self) -> None:
        """Write a progress line to the log file, and to the console if no bar is shown there."""
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.began
        rate = (self.done - self.start) / max(elapsed, 1e-9)
        left = _clock((self.total - self.done) / rate) if rate else "unknown"
        text = f"{self.description} {self.done}/{self.total} · {rate:.1f}/s · {_clock(elapsed)} elapsed · {left} left"
        text += f" · {self.note}" if self.note else ""
        if self.bar is None:
            self.logger.info(text)
        else:
            self.logger.record("INFO", text)


class LoggerManager:
    """The console of a run, its log file `logs_dir/NAME-YYYYmmdd-HHMMSS.log`, and its metrics in `run_dir`.

    Each line of `metrics.jsonl` is an object with `stage`, `step`, `time` (seconds since 1970) and the values.
    TensorBoard's files are in `run_dir/tensorboard/STAGE`. Only one process may write to a run.
    """

    def __init__(self, run_dir: Path, logs_dir: Path, name: str) -> None:
        self.run_dir = run_dir
        self.console = Console()
        self.log_path = logs_dir / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log"
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        with writing(self.log_path):
            logs_dir.mkdir(parents=True, exist_ok=True)
            self._log = open_to_append(self.log_path)
        self.metrics_path = run_dir / "metrics.jsonl"
        self._metrics: TextIO | None = None  # opened by the first line: a command that only reads a run changes nothing
        self._boards: dict[str, ScalarWriter] = {}
        self._purge: dict[str, int] = {}

    def info(self, message: str) -> None:
        """Write `message` to the console and the log file, as one line: see `one_line`."""
        self._write("INFO", message)

    def lines(self, text: str) -> None:
        """Write each line of `text`, such as a table, as `info` does."""
        for line in text.splitlines():
            self.info(line)

    def warning(self, message: str) -> None:
        """As `info`, in yellow and with the prefix "warning: "."""
        self._write("WARNING", message)

    def _write(self, level: str, message: str) -> None:
        style, prefix = ("yellow", "warning: ") if level == "WARNING" else (None, "")
        self.console.print(one_line(prefix + message), style=style, markup=False, highlight=False, soft_wrap=True)
        self.record(level, message)

    def record(self, level: str, message: str) -> None:
        """Write `message` to the log file only, as one line."""
        with writing(self.log_path):
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {one_line(message)}\n")
            self._log.flush()

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append the `values` of `stage` at `step` to `metrics.jsonl` and TensorBoard (tags `stage/key`).

        A value must not be named `stage`, `step` or `time`. Values that are not finite are left out.
        """
        head: dict[str, Any] = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        assert not head.keys() & values.keys(), (
            f"metrics of {stage} must not be named {sorted(head.keys() & values.keys())}"
        )
        numbers = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        with writing(self.metrics_path):
            if self._metrics is None:
                self._metrics = open_to_append(self.metrics_path)
                drop_half_line(self.metrics_path)
            self._metrics.write(json.dumps(head | numbers) + "\n")
            self._metrics.flush()
        self._board(stage).add(step, {f"{stage}/{key}": number for key, number in numbers.items()})

    def truncate(self, stage: str, step: int) -> None:
        """Delete the metrics of `stage` after `step`, which a resumed stage writes again."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        kept = [m for m in read_metrics(self.metrics_path) if m.get("stage") != stage or m.get("step", 0) <= step]
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept))
        if board := self._boards.pop(stage, None):
            board.close()
        self._purge[stage] = step + 1

    def _board(self, stage: str) -> "ScalarWriter":
        if stage not in self._boards:
            from embody.saving.scalars import ScalarWriter  # imports TensorBoard, so only if metrics are written

            self._boards[stage] = ScalarWriter(self.run_dir / "tensorboard" / stage, self._purge.get(stage))
        return self._boards[stage]

    @contextmanager
    def progress(self, description: str, total: int, start: int = 0) -> Iterator[ProgressBar]:
        """Show a bar from `start` (the progress of a resumed stage) to `total`, with rate, time elapsed and time left.

        The log file gets a line every 30 seconds and one at the end. So does the console, instead of the bar, if it is
        not a terminal.
        """
        if not self.console.is_terminal:
            quiet = ProgressBar(self, description, total, start, None)
            yield quiet
            quiet.write_line()
            return
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
        columns += [MofNCompleteColumn(), _Rate()]
        columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)]
        with Progress(*columns, console=self.console) as bar:
            shown = ProgressBar(self, description, total, start, bar)
            yield shown
        shown.write_line()

    def close(self) -> None:
        """Flush and close all files. The logger cannot be used afterwards."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()
        if self._metrics is not None:
            self._metrics.close()
        self._log.close()


def drop_half_line(path: Path) -> None:
    """Delete a half-written last line that a killed process left."""
    if path.exists():
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(path, complete)
