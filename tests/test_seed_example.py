"""The example of the project's first request, as it was written, with `code` on the path."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embody.data import open_dataset
from embody.games.minigrid.presets import minigrid
from embody.model import load_tokenizer
from embody.recording import collect
from tests.recordings import NAVIGATE, minerl_arrays, real, write_trajectory

ROOT = Path(__file__).parents[1]
PATH = f"{ROOT / 'code'}{os.pathsep}{ROOT / 'src'}"

EXAMPLE = """
from config import GameConfig, TrainConfig, Tasks
from main import train_tokenizer
from model import Tokenizer
from trainer import Trainer

from embody.data import open_dataset


def workflow():
    trainer = Trainer(
        SHARE * TrainConfig.train_tokenizer_epochs,
        SHARE * TrainConfig.train_dynamics_epochs,
        SHARE * TrainConfig.train_agent_epochs,
    )
    data = open_dataset(f"{GameConfig.DATA_DIR}/{Tasks[0]}")
    train_tokenizer(trainer, data)
    assert isinstance(trainer.train_tokenizer(data), Tokenizer)


if __name__ == "__main__":
    workflow()
"""


def test_the_seed_example(tmp_path: Path) -> None:
    preset = minigrid()
    env = dataclasses.replace(preset.env, tasks=preset.env.tasks[:1], max_steps=preset.env.max_steps[:1])
    amount = dataclasses.replace(preset.collect, train_episodes=8, validation_episodes=1, workers=1)
    collect(dataclasses.replace(preset, data_dir=str(tmp_path / "data"), env=env, collect=amount))
    environment = os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE.replace("SHARE", "0.1")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    tokenizer, recipe = load_tokenizer(tmp_path / "models" / "minigrid" / "tokenizer.safetensors")
    assert tokenizer.config == preset.tokenizer
    assert recipe["training"]["epochs"] == 0.1 * preset.train_tokenizer.epochs
    (log,) = (tmp_path / "logs").iterdir()
    assert "tokenizer" in log.read_text()


PREAMBLE = """
from trainer import Trainer

Tasks = ["MineRLNavigate-v0"]  # its data is a folder of this name in data/
"""

# To the letter, but for its first line, which was `import minerl`.
SEED = """
from embody.games.minecraft import minerl
from config import GameConfig, TrainConfig
from main import train_tokenizer
from model import Tokenizer

def workflow():
    trainer = Trainer(
        TrainConfig.train_tokenizer_epochs, 
        TrainConfig.train_dynamics_epochs, 
        TrainConfig.train_agent_epochs
    )
    data = minerl.data.make(
        Tasks[0],
        data_dir=GameConfig.DATA_DIR,
        num_workers=4
    )
    train_tokenizer(trainer, data)
"""  # noqa: W291


def documented() -> str:
    """The script that docs/minecraft.md shows."""
    page = (ROOT / "docs" / "minecraft.md").read_text()
    (script,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "workflow" in block)
    return script


@pytest.mark.parametrize("script", ["the seed's", "the documented one"])
def test_the_seed_example_on_minerl_recordings(tmp_path: Path, script: str) -> None:
    for seed, video in enumerate(real("minerl_navigate", "mp4")):
        write_trajectory(tmp_path / "data", NAVIGATE, f"p{seed}_0-60", minerl_arrays(NAVIGATE, 60, seed), video)
    main = 'if __name__ == "__main__":\n    workflow()\n'
    code = PREAMBLE + SEED + main if script == "the seed's" else documented()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    _, recipe = load_tokenizer(tmp_path / "models" / "minigrid" / "tokenizer.safetensors")
    dataset = open_dataset(tmp_path / "runs" / "minigrid" / "data" / NAVIGATE)
    assert recipe["data"] == [dataset.fingerprint]
    assert (dataset.meta.height, len(dataset.episodes()), dataset.actions.shape[1]) == (48, 4, 10)
    kept = json.loads((tmp_path / "runs" / "minigrid" / "config.json").read_text())
    assert kept["env"]["actions"]["sizes"] == list(dataset.meta.actions.sizes)  # what the next phases act by


def test_code_hides_no_module_of_python() -> None:
    """A folder called `code` on the path must not stand before the standard library's module."""
    assert sorted(path.name for path in (ROOT / "code").glob("*.py")) == [
        f"{name}.py" for name in ("config", "logger_manager", "main", "model", "trainer")
    ]
    program = "import code, pdb; assert code.InteractiveConsole"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
