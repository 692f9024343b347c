"""What a run says: console and log file, metrics as JSON lines and TensorBoard, progress bars."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from embody.saving.atomic_write import atomic_write

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["LoggerManager", "ProgressBar", "drop_half_line", "read_metrics"]

QUIET_SECONDS = 30.0  # between two progress lines of the log file


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, oldest first; empty if there is none. A half-written line is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
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
    """A running count towards a total; made by `LoggerManager.progress`."""

    def __init__(self, logger: "LoggerManager", description: str, total: int, start: int, bar: Progress | None) -> None:
        self.logger, self.description, self.total, self.done, self.bar = logger, description, total, start, bar
        self.start, self.began = start, time.monotonic()
        self.spoke = self.began
        self.note = ""
        if bar is not None:
            self.task = bar.add_task(description, total=total, completed=start, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` (a loss, say) stands beside the bar until the next one."""
        self.done += steps
        self.note = self.note if note is None else note
        if self.bar is not None:
            self.bar.update(self.task, advance=steps, note=self.note)
        if time.monotonic() - self.spoke >= QUIET_SECONDS:
            self.say()

    def say(self) -> None:
        """A line to the log file, and to the console unless the bar is there."""
        self.spoke = time.monotonic()
        elapsed = self.spoke - self.began
        rate = (self.done - self.start) / max(elapsed, 1e-9)
        left = _clock((self.total - self.done) / rate) if rate else "unknown"
        text = f"{self.description} {self.done}/{self.total} · {rate:.1f}/s · {_clock(elapsed)} elapsed · {left} left"
        text += f" · {self.note}" if self.note else ""
        if self.bar is None:
            self.logger.info(text)
        else:
            self.logger.record("INFO", text)


class LoggerManager:
    """One run's console, log file `logs_dir/NAME-YYYYmmdd-HHMMSS.log`, and metrics under `run_dir`.

    `metrics.jsonl` holds one object a line: `stage`, `step`, `time` (seconds since 1970) and the values.
    TensorBoard's files are under `run_dir/tensorboard/STAGE`. One process writes a run.
    """

    def __init__(self, run_dir: Path, logs_dir: Path, name: str) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        logs_dir.mkdir(parents=True, exist_ok=True)
        self.console = Console()
        self.log_path = logs_dir / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log"
        self._log = self.log_path.open("a", encoding="utf-8")
        self.metrics_path = run_dir / "metrics.jsonl"
        drop_half_line(self.metrics_path)
        self._metrics = self.metrics_path.open("a", encoding="utf-8")
        self._boards: dict[str, SummaryWriter] = {}
        self._purge: dict[str, int] = {}

    def info(self, message: str) -> None:
        """To the console and the log file."""
        self._write("INFO", message)

    def warning(self, message: str) -> None:
        """As `info`, so that it stands out."""
        self._write("WARNING", message)

    def _write(self, level: str, message: str) -> None:
        style, prefix = ("yellow", "warning: ") if level == "WARNING" else (None, "")
        self.console.print(prefix + message, style=style, markup=False, highlight=False, soft_wrap=True)
        self.record(level, message)

    def record(self, level: str, message: str) -> None:
        """To the log file alone."""
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {message}\n")
        self._log.flush()

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append the `values` of `stage` at `step` to `metrics.jsonl` and TensorBoard (tags `stage/key`).

        No value is called `stage`, `step` or `time`.
        """
        head: dict[str, Any] = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        assert not head.keys() & values.keys(), f"metrics of {stage} hide {sorted(head.keys() & values.keys())}"
        numbers = {key: float(value) for key, value in values.items()}
        self._metrics.write(json.dumps(head | numbers) + "\n")
        self._metrics.flush()
        board = self._board(stage)
        for key, number in numbers.items():
            board.add_scalar(f"{stage}/{key}", number, step)

    def truncate(self, stage: str, step: int) -> None:
        """Forget the metrics of `stage` after `step`: a resumed stage makes them again. Other lines stay."""
        self._metrics.close()
        kept = [m for m in read_metrics(self.metrics_path) if m.get("stage") != stage or m.get("step", 0) <= step]
        with atomic_write(self.metrics_path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._metrics = self.metrics_path.open("a", encoding="utf-8")
        if board := self._boards.pop(stage, None):
            board.close()
        self._purge[stage] = step + 1

    def _board(self, stage: str) -> "SummaryWriter":
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter  # costs a second; commands that measure nothing skip it

            folder = self.run_dir / "tensorboard" / stage
            self._boards[stage] = SummaryWriter(str(folder), purge_step=self._purge.get(stage))
        return self._boards[stage]

    @contextmanager
    def progress(self, description: str, total: int, start: int = 0) -> Iterator[ProgressBar]:
        """A bar from `start` (where a resumed stage stands) to `total`, with rate, time elapsed and time left.

        The log file has a line every half minute and one at the end; so has the console where it is no terminal,
        instead of the bar.
        """
        if not self.console.is_terminal:
            quiet = ProgressBar(self, description, total, start, None)
            yield quiet
            quiet.say()
            return
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate()]
        columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)]
        with Progress(*columns, console=self.console) as bar:
            shown = ProgressBar(self, description, total, start, bar)
            yield shown
        shown.say()

    def close(self) -> None:
        """Flush and close every file; the logger is of no use afterwards."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()
        self._metrics.close()
        self._log.close()


def drop_half_line(path: Path) -> None:
    """Cut what a killed process left after the last line end, so that the next line begins on its own."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
