"""Runs the real server script in a process of its own, with the simulator in `fake_simulator`."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import embody.games.minecraft.simulator

SERVER = Path(embody.games.minecraft.simulator.__file__).parent / "server.py"
FAKE = Path(__file__).parent / "fake_simulator"
# The server supports old Pythons: this variable may name one (with numpy) to run it with.
PYTHON = os.environ.get("EMBODY_SIMULATOR_PYTHON", sys.executable)

ITEMS = ("log", "planks", "stick", "crafting_table", "dirt")


class Server:
    """The server script; it is restarted on the same port whenever it exits, as by `docker run --restart always`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log, self._command, self._closed = log, command, False
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self.log.touch()
        self.said: list[str] = []
        self.starts, self.port = 0, 0
        ready = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30), "the server does not start"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The seeds and actions that the simulator received, in order."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _keep_up(self, ready: threading.Event) -> None:
        while not self._closed:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.starts += 1
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self.said.append(line.strip())
                if line.startswith("listening on "):
                    self.port = int(line.rpartition(":")[2])
                    ready.set()
            self._process.wait()

    def kill(self) -> None:
        """Kill the server; it is restarted."""
        self._process.kill()

    def close(self) -> None:
        self._closed = True
        self._process.kill()
        self._thread.join()


@contextmanager
def serving(folder: Path, episode: Path, *arguments: str, fault: str = "", step: int = 0) -> Iterator[Server]:
    """A server whose simulator replays `episode` and fails once with `fault` at `step`."""
    environment = {
        "PYTHONPATH": str(FAKE),
        "FAKE_EPISODE": str(episode),
        "FAKE_LOG": str(folder / "log.jsonl"),
        "FAKE_FAULT_DONE": str(folder / "fault"),
    }
    if fault:
        environment |= {"FAKE_FAULT": fault, "FAKE_STEP": str(step)}
    with closing(Server([PYTHON, str(SERVER), *arguments], environment, folder / "log.jsonl")) as server:
        yield server


def record_episode(path: Path, size: tuple[int, int], steps: int = 8) -> dict[str, Any]:
    """Write an episode of `steps` actions to `path`.

    Logs are obtained at steps 1 and 2, planks at 4 and a crafting table at 5, which is placed at 6. The diamond at the
    last step is seen in the reward only.
    """
    random = np.random.default_rng(0)
    inventory = np.zeros((steps + 1, len(ITEMS)), np.int64)
    inventory[1:, 0], inventory[2:, 0], inventory[4:, 0] = 1, 2, 1
    inventory[4:, 1], inventory[5:, 1] = 4, 0
    inventory[5:, 3], inventory[6:, 3] = 1, 0
    inventory[:, 4] = 3  # in the inventory from the start, so not obtained
    reward = np.zeros(steps)
    reward[0], reward[3], reward[4], reward[-1] = 1, 2, 4, 1024
    episode = {
        "pov": random.integers(0, 256, (steps + 1, *size, 3), dtype=np.uint8),
        "reward": reward,
        "items": np.array(ITEMS),
        "inventory": inventory,
    }
    np.savez(path, **episode)
    return episode


def find_python(version: str) -> str | None:
    """A Python interpreter of that version, on the path or from pyenv; None if there is none."""
    pyenv = shutil.which("pyenv")
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip() if pyenv else "/nowhere"
    candidates = [
        shutil.which(f"python{version}") or "",
        *map(str, Path(root).glob(f"versions/{version}.*/bin/python")),
    ]
    for candidate in filter(None, candidates):
        said = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if said.stdout.strip() == version:
            return candidate
    return None
