"""The example of the project's first request, as it was written, with `code` on the path."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from embody.collection import collect
from embody.config import Tasks, minigrid
from embody.model import load_tokenizer

ROOT = Path(__file__).parents[1]

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
    env = dataclasses.replace(preset.env, tasks=Tasks[:1], max_steps=preset.env.max_steps[:1])
    amount = dataclasses.replace(preset.collect, train_episodes=8, validation_episodes=1, workers=1)
    collect(dataclasses.replace(preset, data_dir=str(tmp_path / "data"), env=env, collect=amount))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "code"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE.replace("SHARE", "0.1")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    tokenizer, about = load_tokenizer(tmp_path / "models" / "minigrid" / "tokenizer.safetensors")
    assert tokenizer.config == preset.tokenizer
    assert about["training"]["epochs"] == 0.1 * preset.train_tokenizer.epochs
    (log,) = (tmp_path / "logs").iterdir()
    assert "tokenizer" in log.read_text()


def test_code_hides_no_module_of_python() -> None:
    """A folder called `code` on the path must not stand before the standard library's module."""
    assert sorted(path.name for path in (ROOT / "code").glob("*.py")) == [
        f"{name}.py" for name in ("config", "logger_manager", "main", "model", "trainer")
    ]
    program = "import code, pdb; assert code.InteractiveConsole"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
