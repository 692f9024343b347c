"""The peer's virtual environment: made once, under `.bench/`, from `peer.txt`."""

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["peer_pin", "peer_python", "torch_pin"]

HERE = Path(__file__).parent
PINS = HERE / "peer.txt"


def torch_pin() -> str:
    """`torch==...`, as embody's own environment has it."""
    return _pin("torch", HERE.parent / "requirements.txt")


def peer_pin() -> str:
    """`dreamer4==...`."""
    return _pin("dreamer4", PINS)


def _pin(package: str, path: Path) -> str:
    pin = re.search(rf"^{package}==\S+$", path.read_text(), re.MULTILINE)
    if not pin:
        raise ValueError(f"{path} does not pin {package}: add a line {package}==VERSION")
    return pin.group()


def peer_python(folder: Path, torch_index: str = "") -> Path:
    """The environment's interpreter; a stamp says from which pins it was made.

    torch goes first, alone, and a constraints file holds it: the rest would pull in another.
    """
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = f"{torch_pin()}\n{PINS.read_text()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(f"{torch_pin()}\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *(["--index-url", torch_index] if torch_index else []), torch_pin()], check=True)
    subprocess.run([*install, "-c", str(constraints), "-r", str(PINS)], check=True)
    stamp.write_text(wanted)
    return python
