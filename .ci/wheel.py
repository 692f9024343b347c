"""Builds the wheel, installs it into a new environment outside of the checkout, and runs `embody` there.

The environment variable TORCH_INDEX names the package index that torch comes from, as in the Makefile.
"""

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PINS = CHECKOUT / "requirements.txt"

PRESETS = """
import sys
from pathlib import Path
import embody
from embody.games import preset_names

assert Path(embody.__file__).is_relative_to(sys.prefix), embody.__file__
for name in preset_names():
    assert embody.preset(name).preset == name
print("presets:", *preset_names())
"""

TINY_RUN = """
run minigrid --precision float32
--collect.train-episodes 24 --collect.validation-episodes 4 --collect.workers 1
--train-tokenizer.steps 2 --train-dynamics.steps 2 --train-agent.steps 2 --train-imagination.steps 2
--train-tokenizer.batch 4 --train-dynamics.batch 4 --train-agent.batch 16 --train-imagination.batch 4
--evaluation.episodes 2 --evaluation.batch 2 --evaluation.rollouts 2
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    print("+", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, check=True, cwd=cwd, env=environment)


def build(folder: Path) -> Path:
    """The wheel, made from the source distribution, so that nothing left in the checkout's build/ gets into it."""
    run(sys.executable, "-m", "build", "--outdir", folder, CHECKOUT)
    (wheel,) = folder.glob("*.whl")
    source = CHECKOUT / "src"
    files = {str(path.relative_to(source)) for path in (source / "embody").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    missing = files - set(zipfile.ZipFile(wheel).namelist())
    assert not missing, f"not in the wheel: {sorted(missing)}; add them to package-data in pyproject.toml"
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The scripts' folder of a new environment with the wheel and what `embody run minigrid` needs, pinned."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    (torch,) = [line for line in PINS.read_text().splitlines() if line.startswith("torch==")]
    index = os.environ.get("TORCH_INDEX")
    run(*pip, *(["--index-url", index] if index else []), torch)
    run(*pip, "--constraint", PINS, f"{wheel}[minigrid]")
    return folder / "bin"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        scripts = install(build(place / "dist"), place / "environment")
        work = place / "work"
        work.mkdir()
        run(scripts / "python", "-c", PRESETS, cwd=work)
        run(scripts / "embody", "--version", cwd=work)
        run(scripts / "python", "-m", "embody", "--help", cwd=work)
        run(scripts / "embody", *TINY_RUN.split(), cwd=work)
        assert (work / "runs/minigrid/report.html").stat().st_size > 10_000


if __name__ == "__main__":
    main()
