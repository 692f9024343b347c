"""A command that is interrupted, killed or started twice: what it leaves, what it says, and that nothing lives on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from embody.config import Config
from embody.interruption import Interrupted, deferred_signals
from embody.logger_manager import read_metrics
from embody.run.folder import write_config
from embody.saving.atomic_write import exclusive_lock
from embody.saving.tensors import load_metadata

STEPS = 100_000


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Whoever runs the tests may ignore signals (nohup, pytest-xdist), which processes inherit."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(config: Config, workers: int = 0) -> "subprocess.Popen[str]":
    """Train the tokenizer, which takes much longer than any test waits, in a session of its own."""
    stage = dataclasses.replace(config.train_tokenizer, steps=STEPS, checkpoint_every=STEPS, log_every=1)
    write_config(dataclasses.replace(config, train_tokenizer=stage, workers=workers))
    places = [word for name in ("runs_dir", "models_dir", "data_dir", "logs_dir")
              for word in (f"--{name.replace('_', '-')}", getattr(config, name))]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "embody", "train", "tokenizer", "--name", config.name, *places],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(what: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def steps(config: Config) -> int:
    path = config.run_dir / "metrics.jsonl"
    return sum(1 for _ in read_metrics(path)) if path.exists() else 0


def training(config: Config, process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Wait until steps are done; the process and all that it has started."""
    assert wait_for(lambda: steps(config) >= 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.parametrize(
    ("number", "whole_session"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, False)],
)
def test_a_signal_leaves_a_checkpoint_and_no_process(config: Config, number: int, whole_session: bool) -> None:
    process = start(config, workers=2)
    family = training(config, process)
    assert len(family) >= 3
    if whole_session:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"embody: interrupted ({signal.Signals(number).name}); the same command goes on"
    assert "Traceback" not in said
    assert ended(family, 10)
    kept = load_metadata(config.checkpoint("tokenizer"))["step"]
    assert kept == steps(config) > 0


def test_what_a_killed_command_has_started_ends_too(config: Config) -> None:
    process = start(config, workers=2)
    family = training(config, process)
    process.kill()
    process.communicate()
    assert ended(family, 10)


def test_a_second_process_in_a_run_is_refused_at_once(config: Config) -> None:
    first = start(config)
    family = training(config, first)
    second = start(config)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 2 and said.splitlines()[-1].startswith(f"embody: {config.run_dir}: another process ")
    assert "Traceback" not in said and first.poll() is None
    lines = [json.loads(line)["step"] for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()[:-1]]
    assert lines == list(range(1, len(lines) + 1))
    first.kill()
    first.communicate()
    assert ended(family, 10)
    third = start(config)  # what was killed refuses nobody
    training(config, third)
    third.kill()
    third.communicate()


def test_a_second_signal_does_not_wait() -> None:
    with deferred_signals() as kept:
        assert kept() is None
        signal.raise_signal(signal.SIGTERM)
        assert kept() == signal.SIGTERM
        with pytest.raises(Interrupted, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_dataset_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    code = (
        "import sys, time; from pathlib import Path; from embody.saving.atomic_write import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "held\n"
    said: list[str] = []

    def waiting(line: str) -> None:
        assert other.stdin is not None
        said.append(line)
        other.stdin.close()  # the other one is done

    with exclusive_lock(folder, waiting):
        assert other.wait(timeout=30) == 0
    assert said == [f"{folder}: waiting for another process that writes there"]
