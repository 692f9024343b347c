"""The server and the adapter over the real MineRL 0.4.4: its spaces and its handlers, but not its game (no Java)."""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.simulator import MineRLEnv
from tests.simulators import SERVER, Server, find_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In the environment that the simulator's Dockerfile makes, with MineRL unpacked instead of built."""
    interpreter = find_python("3.8")
    if interpreter is None:
        pytest.skip("no Python 3.8 here")
    folder = tmp_path_factory.mktemp("minerl")
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip"]
    subprocess.run([interpreter, "-m", "venv", folder / "venv"], check=True)
    for words in (
        ["install", "pip==23.3.2", "setuptools==65.5.0", "wheel==0.38.4"],
        ["install", "--no-build-isolation", "-r", str(ROOT / "docker" / "minerl" / "requirements.txt")],
        ["download", "--no-build-isolation", "--no-deps", "--no-binary", "minerl", "-d", str(folder), "minerl==0.4.4"],
    ):
        subprocess.run([*pip, "-q", *words], check=True)
    with tarfile.open(folder / "minerl-0.4.4.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    command = [python, str(ROOT / "tests" / "real_minerl.py"), str(SERVER.parent)]
    with closing(Server(command, {"PYTHONPATH": str(folder / "minerl-0.4.4")}, folder / "log.jsonl")) as server:
        yield server


def connect(server: Server, environment: str) -> MineRLEnv:
    return MineRLEnv(server.address, environment, height=64, width=64, max_steps=72_000, reconnect_seconds=5.0)


@pytest.mark.parametrize(
    "name",
    ["Treechop", "Navigate", "NavigateDense", "NavigateExtreme", "NavigateExtremeDense"]
    + ["ObtainDiamond", "ObtainDiamondDense", "ObtainIronPickaxe", "ObtainIronPickaxeDense"],
)
def test_every_space_is_the_packages(real: Server, name: str) -> None:
    with closing(connect(real, f"MineRL{name}-v0")) as env:
        assert env.space == minerl_space(f"MineRL{name}-v0")
        assert env.simulator == "minerl 0.4.4"


def test_the_limit_is_an_hour(real: Server) -> None:
    with closing(connect(real, "MineRLObtainDiamond-v0")):
        quits = [line for line in real.said if line.startswith("quits ")][-1]
        assert re.findall(r'timeLimitMs="(\d+)"', quits) == ["3600000"]


def test_steps_of_minerls_own_fake(real: Server) -> None:
    """MineRL checks and translates every action to the game's commands."""
    with closing(connect(real, "MineRLNavigate-v0")) as env:
        frame, info = env.reset(seed=2**41 + 7)
        assert frame.std() > 0 and info == {"inventory": {}, "gui": None}
        random = np.random.default_rng(0)
        for place, size in enumerate(env.space.spec.sizes):
            for value in range(size):
                action = random.integers(0, env.space.spec.sizes)
                action[place] = value
                frame, reward, terminated, truncated, _ = env.step(action)
                assert (reward, terminated, truncated) == (0.0, False, False) and frame.std() > 0
