"""What `--help` shows, and how little is imported for it."""

import dataclasses
import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import embody
from embody.cli.options import field_docs, options, positionals
from embody.cli.parse import COMMANDS, initial, parse
from embody.cli.shown import SHOWN
from embody.config import Config
from embody.games import games, preset, preset_names
from embody.games.registry import recording_kinds
from embody.run.folder import write_config
from embody.run.stages import STAGES

Shown = Callable[..., str]

TOPICS = [*(name.split() for name in COMMANDS), *(["train", stage] for stage in STAGES)]
SETTINGS = options(Config(), "", "Run")  # as paths and options
# What the package imports only when a command starts.
HEAVY = ("torch", "h5py", "av", "matplotlib", "scipy", "pyarrow", "gymnasium", "rich.progress", "tensorboard")


@pytest.fixture
def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Shown:
    """Gives what the arguments print on a terminal of so many columns, in a folder without runs."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))

    def run(*arguments: str, columns: int = 120) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            parse(arguments)
        assert not stop.value.code
        return capsys.readouterr().out

    return run


def settings_in(text: str) -> set[str]:
    """The paths of the config's settings that a help text lists; a line for all stages lists four."""
    typed = [line.split(",")[0].split()[0] for line in text.splitlines() if line.startswith("  --")]
    names = {option.name: path for path, option in SETTINGS.items()}
    found = (fnmatch.filter(names, name.replace("STAGE", "*")) for name in typed)
    return {names[name] for group in found for name in group}


def parts(config: Any) -> Iterator[type]:
    """The classes of a config and of its groups."""
    yield type(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from parts(value)


# --- what is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
def test_help_is_short_and_fits_the_terminal(shown: Shown, columns: int) -> None:
    for topic in [[], *TOPICS]:
        lines = shown(*topic, "--help", columns=columns).splitlines()
        assert len(lines) <= 120, (topic, len(lines))
        assert max(map(len, lines)) <= columns, topic
        assert lines[0].startswith(" ".join(["usage: embody", *topic]))


def test_the_programs_help_has_a_line_for_each_command(shown: Shown) -> None:
    lines = shown("--help").splitlines()
    for name, kind in COMMANDS.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert str(kind.__doc__).partition("\n")[0] in line
    assert shown("-h") == shown("--help")
    assert shown("--version") == f"embody {embody.__version__}\n"


def test_a_group_lists_its_commands(shown: Shown) -> None:
    assert "  data relocate " in shown("data", "--help") and "  collect " not in shown("data", "--help")
    assert shown("data", "relocate", "--help").startswith("usage: embody data relocate DATASET NEW_ROOT [")


def test_arguments_are_shown_with_a_line_for_each_choice(shown: Shown) -> None:
    lines = shown("run", "--help").splitlines()
    assert lines[0] == "usage: embody run [PRESET] [--OPTION VALUE ...]"
    start = lines.index("PRESET (default: minigrid)") + 1
    shown_presets = [line.split()[0] for line in lines[start : start + len(preset_names())]]
    assert shown_presets[0] == "minigrid" and sorted(shown_presets) == sorted(preset_names())
    assert "PRESET (default: crafter)" in shown("run", "crafter", "--help")
    text = shown("train", "--help")
    assert all(f"  {name} " in text and spec.summary in text for name, spec in STAGES.items())
    text = shown("import", "--help")
    assert all(f"  {name} " in text and kind.summary in text for name, kind in recording_kinds().items())


def test_run_shows_thirty_settings_in_groups(shown: Shown) -> None:
    text = shown("run", "--help")
    typed = [line for line in text.splitlines() if line.startswith("  --")]
    assert len(typed) == 1 + 30  # --full, and the settings
    groups = ("Options", *SHOWN["run"])
    assert [line for line in text.splitlines() if line in groups] == list(groups)
    assert "--train-STAGE.epochs FLOAT" in text and "(default: 0.18, 0.8, 4, 0.65)" in text
    assert "`embody run --help-all` shows all" in text


def test_defaults_are_those_of_the_preset(shown: Shown) -> None:
    assert "(default: 5000)" in shown("collect", "minigrid", "--help")
    assert "(default: 1000)" in shown("collect", "crafter_small", "--help")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_shows_only_settings_that_it_reads(shown: Shown, stage: str) -> None:
    spec = STAGES[stage]
    objectives = {name: "imagination" if name == "imagination" else f"{name}_objective" for name in spec.objectives}
    read = {*spec.models, *objectives.values(), f"train_{spec.phase}", "data", *(["sampling"] * spec.sampling)}
    found = settings_in(shown("train", stage, "--help"))
    assert {path.partition(".")[0] for path in found if "." in path} <= read
    assert f"train_{spec.phase}.lr" in found and "seed" in found
    if stage == "imagination":  # its rows have the length of the dreams' context
        assert not found & {"train_imagination.length", "train_imagination.long_length"}


def test_other_commands_show_only_settings_that_they_read(shown: Shown) -> None:
    read = {
        "collect": {"env", "collect"},
        "encode": {"data"},
        "evaluate": {"evaluation", "sampling", "collect"},
        "report": set(),
        "ablate": {"train_dynamics", "evaluation"},
        "import": set(),
        "data relocate": set(),
        "compare": set(),
        "weights": set(),
    }
    for name, groups in read.items():
        assert {
            path.partition(".")[0] for path in settings_in(shown(*name.split(), "--help")) if "." in path
        } == groups, name


def test_what_is_shown_exists() -> None:
    for titles in SHOWN.values():
        for names in titles.values():
            assert all(fnmatch.filter(SETTINGS, name) for name in names.split()), names
    assert SHOWN.keys() <= {*COMMANDS, *(f"train {spec.phase}" for spec in STAGES.values())}


def test_help_all_shows_every_setting(shown: Shown) -> None:
    text = shown("run", "--help-all")
    assert settings_in(text) == SETTINGS.keys()
    for option in SETTINGS.values():
        assert f"  {option.name}" in text
    assert "--agent.own-weights, --agent.no-own-weights" in text
    assert "--evaluation.full " not in text and "shuffle-rewards" not in text  # no options
    assert "--schedule.patience INT" in shown("run", "crafter_small", "--help-all")


def test_every_option_in_help_can_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    words = ["run", "crafter_small"]
    for option in options(preset("crafter_small")).values():
        typed = option.negative if option.negative and not option.default else option.name
        words += [typed, *([] if option.negative else option.default.split() or [""] * (option.values == "TEXT"))]
    command = parse(words).func.__self__  # type: ignore[attr-defined]
    assert command.config == preset("crafter_small")


# --- sentences ------------------------------------------------------------------------------------------------------


def test_every_option_of_a_command_has_a_sentence() -> None:
    for name, kind in COMMANDS.items():
        for option in options(initial(kind, Config())).values():
            if option.group == "Options":
                assert option.help.endswith(".") and option.help[0].isupper(), (name, option.name)
        assert set(positionals(kind)) - {"stage", "preset", "kind"} <= field_docs(kind).keys(), name
    for game in games().values():
        for name, make in game.presets.items():
            assert len(str(make.__doc__).partition("\n")[0]) <= 61, f"{name}: more than a line of 80 columns"


# --- what it costs --------------------------------------------------------------------------------------------------


def imported(arguments: list[str]) -> list[str]:
    """The heavy modules that are imported in a new process by `embody ARGUMENTS`."""
    program = f"""
import contextlib, json, sys
from embody.cli import main
with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
    main({arguments!r})
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "command",
    ["--help", "--version", "rnu", "run --help", "run mingrid", "run --tokeniser.patch 4", "run --dynamics.k-max 48"],
)
def test_a_quick_answer_imports_nothing_heavy(command: str) -> None:
    assert imported(command.split()) == []


def test_a_stored_config_is_read_without_heavy_imports(tmp_path: Path) -> None:
    write_config(Config(name="tiny", runs_dir=str(tmp_path)))
    assert imported(["train", "dynamics", "--help", "--name", "tiny", "--runs-dir", str(tmp_path)]) == []


def test_an_answer_takes_less_than_a_second_of_computing() -> None:
    """CPU time, which a busy machine lengthens less than the clock; the best of three."""
    program = "import time; from embody.cli import main\ntry: main(['--help'])\nfinally: print(time.process_time())"
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds.append(float(done.stdout.split()[-1]))
    assert min(seconds) < 1.0, seconds


def test_every_option_that_a_page_names_exists(shown: Shown) -> None:
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md")), *sorted((root / "weights").rglob("*.md"))]
    known = {"--help", "--help-all", "--version"}
    known |= {option.name for name in preset_names() for option in options(preset(name), "", "Run").values()}
    for topic in TOPICS:
        known |= set(re.findall(r"--[\w.-]+", shown(*topic, "--help-all")))
    named, unknown = 0, []
    for page in pages:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r'\s*(embody |\w+="(\$\w+ )?--)', line.partition("#")[0]):
                    found = re.findall(r"--[a-z][\w.-]*", line.partition("#")[0])
                    named += len(found)
                    unknown += [(page.name, option) for option in found if option.replace(".no-", ".") not in known]
    assert named > 50 and not unknown
