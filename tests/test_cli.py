"""The command line: what it runs, where settings come from, and one line for every mistake."""

import dataclasses
import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embody.cli import main
from embody.config import Config, to_dict
from embody.data import DatasetWriter, open_dataset
from embody.errors import UserError
from embody.games import stored_config
from embody.metrics.results_file import write_results
from embody.saving.tensors import load_tensors, save_tensors
from embody.training.tokenizer import TokenizerStage
from tests.conftest import TASK, tiny_config

Refusal = Callable[..., str]


def states(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*") if path.is_file()}


def artefacts(root: Path) -> dict[str, tuple[int, int]]:
    """Every file that holds something made: not the logs and the times, nor the config, which is put back."""
    records = ("/logs/", "/metrics.jsonl", "/seconds.json", "/memory.json", "/config.json")
    return {path: state for path, state in states(root).items() if not any(name in path for name in records)}


def store(config: Config) -> None:
    """Make `config` the stored one of its run."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / "config.json").write_text(json.dumps(to_dict(config)))


def stored(root: Path) -> Config:
    return stored_config(json.loads((root / "runs" / "tiny" / "config.json").read_text()))


@pytest.fixture
def place(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: datasets, and the tiny run's stored config, nothing trained."""
    monkeypatch.chdir(tmp_path)
    store(config)
    return tmp_path


@pytest.fixture
def done(finished_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the whole tiny run."""
    monkeypatch.chdir(tmp_path)
    store(finished_config)
    return tmp_path


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must end with one line and exit code 2; gives the line."""

    def run(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capfd.readouterr().err
        assert stop.value.code == 2, said
        assert said.startswith("embody: ") and said.endswith("\n") and said.count("\n") == 1, said
        assert "Traceback" not in said and "dummy" not in said
        return said

    return run


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "no command: choose one of run, collect, import, data relocate, train, encode, evaluate, report, compare"),
        ("paint", "unknown command 'paint' (did you mean plan?): choose one of run, collect, import"),
        ("sculpt", "unknown command 'sculpt': choose one of run, collect, import"),
        ("rnu", "unknown command 'rnu' (did you mean run?): choose one of"),
        ("--seed 1 run", "unknown command '--seed': choose one of"),
        ("run mingrid", "unknown preset 'mingrid' (did you mean minigrid?): choose one of crafter_small"),
        ("import vidoes .", "unknown recordings 'vidoes' (did you mean videos?): choose one of videos"),
        ("import videos . --worker 3", "unknown setting --worker (did you mean --workers?)"),
        ("train tokeniser", "unknown stage 'tokeniser' (did you mean tokenizer?): choose one of tokenizer, dynamics"),
        ("run --tokeniser.patch 4", "unknown setting --tokeniser.patch (did you mean --tokenizer.patch?)"),
        ("run --tokeniser.patch=4", "unknown setting --tokeniser.patch (did you mean --tokenizer.patch?)"),
        ("run --random-crop 4", "unknown setting --random-crop (did you mean --tokenizer-objective.random-crop?)"),
        ("run --lr 1", "--train-tokenizer.lr, --train-dynamics.lr, --train-agent.lr, --train-imagination.lr?)"),
        ("run minigrid crafter", "too many arguments: crafter"),
        ("collect --episodes few", "Error parsing --episodes: invalid literal for int() with base 10: 'few'"),
        ("run chess", "unknown preset 'chess': choose one of crafter_small"),
        ("train tokenizer chess", "unknown preset 'chess'"),
        ("train paint", "unknown stage 'paint': choose one of tokenizer, dynamics"),
        ("train", "`embody train` needs STAGE: `embody train --help` describes them"),
        ("run --name ''", "--name '' is empty: it must be the name of one folder"),
        ("run --name ' '", "--name ' ' is empty"),
        ("run --name ..", "--name '..' begins or ends with a space, or ends with a dot"),
        ("run --name ../elsewhere", "--name '../elsewhere' has one of the characters / \\ :"),
        ("run --name /tmp/elsewhere", "--name '/tmp/elsewhere' has one of the characters"),
        ("run --name C:run", "--name 'C:run' has one of the characters"),
        ("run --name first --name second/third", "--name 'second/third' has one of the characters"),
        ("report --name 'a\\b'", "has one of the characters"),
        (f"encode --name {'x' * 201}", "--name 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' has more than 200 bytes"),
        ("train tokenizer --name 'a\nb'", "--name 'a\\nb' has a control character"),
        ("train agent --world ..", "world '..' begins or ends with a space, or ends with a dot"),
        ("train agent --name a --world a", "world a is the run itself: name another run"),
        ("train agent --train-agent.init-from ../a", "train_agent.init_from '../a' has one of the characters"),
        ("collect --env.tasks ../a --env.max-steps 9", "env.tasks '../a' has one of the characters"),
        ("train tokenizer --data.sources ''", "data.sources has an empty name"),
        ("import videos . --name ../a", "--name '../a' has one of the characters"),
        ("compare a ../b", "run '../b' has one of the characters"),
        ("data", "unknown command 'data': choose one of data relocate;"),
        (
            "data relocat x y",
            "unknown command 'data relocat' (did you mean data relocate?): choose one of data relocate;",
        ),
        ("data relocate x", "`embody data relocate` needs DATASET and NEW_ROOT: `embody data relocate --help`"),
        ("data relocate x .", "no dataset in x: name the folder of a dataset"),
        ("run minigrid --colour red", "unknown setting --colour: `embody run --help-all` lists all"),
        ("run minigrid --seed red", "Error parsing --seed"),
        (
            "run minigrid --tokenizer.padded 40 48",
            "padded 40 must be 0, or a multiple of tokenizer.patch 8 that is at least the frame's 48 pixels",
        ),
        (
            "run minigrid --tokenizer.padded 48 52",
            "padded 52 must be 0, or a multiple of tokenizer.patch 8 that is at least the frame's 48 pixels",
        ),
        (
            "run minigrid --tokenizer-objective.decoder-share 1",
            "tokenizer_objective.decoder_share must be at least 0, below 1, got 1",
        ),
        (
            "run minigrid --tokenizer-objective.lpips vgg --cache-dir nowhere --precision float32",
            "vgg: no weights at nowhere/lpips-vgg.safetensors: run `embody weights lpips --cache-dir nowhere`",
        ),
        ("run minigrid --tokenizer.latents 5", "set dynamics.tokens and dynamics.channels"),
        ("run minigrid --dynamics.k-max 48", "dynamics.k_max must be a power of two, got 48"),
        ("run minigrid --imagination.context 64", "imagination.context 64 exceeds dynamics.context"),
        ("run minigrid --train-agent.batch 0", "train_agent.batch must be at least 1, got 0"),
        (
            "run minigrid --train-dynamics.length 1",
            "predicts every second frame of a row: set train_dynamics.length to 2",
        ),
        ("run minigrid --dynamics-objective.tau-power 0", "dynamics_objective.tau_power must be above 0"),
        ("run minigrid --agent-objective.uniform-share 0", "agent_objective.uniform_share must be above 0, at most 1"),
        ("run minigrid --tokenizer.encoder.heads 0", "tokenizer.encoder.heads must be at least 1, got 0"),
        ("run minigrid --tokenizer.encoder.depth 0", "tokenizer.encoder.depth must be at least 1, got 0"),
        ("run minigrid --tokenizer.encoder.heads 3", "tokenizer.encoder: width 128 must split into 3 heads of an even"),
        ("run minigrid --tokenizer.patch 0", "tokenizer.patch must be at least 1, got 0"),
        ("run minigrid --tokenizer.context 0", "tokenizer.context must be at least 1, got 0"),
        (
            "run minigrid --dynamics-objective.image-fraction 2",
            "dynamics_objective.image_fraction must be from 0 to 1, got 2",
        ),
        (
            "run minigrid --dynamics.k-max 4",
            "context_tau 0.9 rounds to 1 on the grid of dynamics.k_max 4, and signal level 1 is never",
        ),
        ("run minigrid --dynamics.context-tau 2", "dynamics.context_tau must be from 0 to 1, got 2"),
        ("run minigrid --agent.distances 0", "agent.distances must be at least 1, got 0"),
        ("run minigrid --agent.bins 1", "agent.bins must be at least 2, got 1"),
        (
            "run minigrid --agent.reward-range 1 0",
            "agent.reward_range must go from a lower to a higher number, got 1.0 to 0.0",
        ),
        ("run minigrid --imagination.horizon 0", "imagination.horizon must be at least 1, got 0"),
        ("run minigrid --evaluation.context 20", "evaluation.context 20 exceeds dynamics.context 16"),
        ("run minigrid --evaluation.rollouts 0", "evaluation.rollouts must be at least 1, got 0"),
        ("run minigrid --train-tokenizer.epochs nan", "train_tokenizer.epochs must be above 0, got nan"),
        ("run minigrid --train-tokenizer.epochs -1", "train_tokenizer.epochs must be above 0, got -1"),
        ("run minigrid --train-agent.long-length 2", "train_agent.long_length 2 is shorter than train_agent.length 6"),
        ("run minigrid --collect.noise-levels 2", "collect.noise_levels must be from 0 to 1, got 2"),
        ("train dynamics --preset crafter_small", "name the preset without it, as in `embody train dynamics crafter"),
        ("train dynamics --preset=crafter_small", "name the preset without it"),
        ("train imagination --imagination.shuffle_rewards", "is a stage of its own: `embody train shuffled_rewards`"),
        ("evaluate --evaluation.full", "--evaluation.full: ask for it with --full"),
        ("plan --gpus 8 minecraft", "minecraft stands behind an option: name the preset first"),
        ("plan --gpus 8 chess", "chess stands behind an option: name the preset first"),
        ("run minigrid --imagination.updates 0", "imagination.updates must be at least 1, got 0"),
        (
            "run minigrid --env.tasks Chess --env.max-steps 9 --precision float32",
            "unknown task 'Chess': choose from BabyAI-",
        ),
        (
            "train tokenizer --precision float32",
            "no dataset in data/BabyAI-GoToLocalS5N2-v0: run `embody collect` or `embody import` first",
        ),
        (
            "evaluate --precision float32",
            "no weights at models/minigrid/tokenizer.safetensors: run `embody train tokenizer` first",
        ),
        ("import minerl nowhere", "nowhere is not a folder"),
        ("import videos . --env MineRLTreechop-v0", "videos recordings have no environments, only those of minerl do"),
        ("import videos . --workers 0", "--workers 0: at least one process must read"),
        ("report --precision float32", "no run in runs/minigrid"),
        ("collect minecraft --precision float32", "env.game minecraft has no environment"),
        ("plan minecraft --gpus 96", "train_tokenizer: 256 rows of 64 frames do not split over 96 GPUs"),
        ("plan minecraft --gpus 128", "train_dynamics: 64 rows of 256 frames do not split over 128 GPUs"),
        ("plan minigrid --mfu 0", "--mfu must be above 0, got 0"),
        ("plan minigrid --mfu 40", "--mfu is a share of the peak, at most 1, got 40"),
    ],
)
def test_a_mistake_is_one_line(
    command: str, says: str, refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(*shlex.split(command))
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log"]
    assert {path.name for path in left} <= {"metrics.jsonl", "seconds.json", "memory.json"}  # a record of the attempt


def test_a_half_written_dataset(place: Path, refused: Refusal) -> None:
    meta = place / "data" / TASK / "meta.json"
    values = json.loads(meta.read_text())
    meta.write_text(json.dumps(values | {"splits": None}))
    before = artefacts(place)
    said = refused("train", "tokenizer", "--name", "tiny")
    assert f"data/{TASK}" in said and "embody collect" in said
    meta.write_text('{"format_ver')
    assert "meta.json is damaged" in refused("train", "tokenizer", "--name", "tiny")
    meta.write_text(json.dumps(values))
    (place / "data" / TASK / "frames" / "train-00000.h5").write_bytes(b"\x89HDF")
    assert "damaged" in refused("train", "tokenizer", "--name", "tiny")
    assert artefacts(place).keys() == before.keys() and not (place / "models").exists()


def test_a_folder_that_is_no_dataset_is_left_alone(place: Path, refused: Refusal) -> None:
    other = place / "elsewhere" / TASK
    other.mkdir(parents=True)
    (other / "letter.txt").write_text("dear")
    assert "holds files but no dataset" in refused("collect", "--name", "tiny", "--data-dir", "elsewhere")
    assert [path.name for path in other.iterdir()] == ["letter.txt"]
    assert stored(place).data_dir == str(place / "data")


@pytest.mark.parametrize("damage", ["half", "garbage", "empty"])
def test_a_damaged_checkpoint(done: Path, refused: Refusal, damage: str) -> None:
    weights, checkpoint = done / "models/tiny/dynamics.safetensors", done / "runs/tiny/checkpoints/dynamics.safetensors"
    assert not checkpoint.exists()  # a finished stage leaves none behind
    content = weights.read_bytes()
    wrong = {"half": content[: len(content) // 2], "garbage": b"\xff" * 100, "empty": b""}[damage]
    weights.write_bytes(wrong)
    assert f"{weights} is damaged" in refused("train", "dynamics", "--name", "tiny")
    weights.unlink()
    checkpoint.write_bytes(wrong)
    before = artefacts(done)
    assert f"{checkpoint.relative_to(done)} is damaged" in refused("train", "dynamics", "--name", "tiny")
    assert artefacts(done) == before
    assert stored(done) == tiny_config(done)


def test_a_checkpoint_of_another_shape(done: Path, refused: Refusal) -> None:
    path = done / "models/tiny/agent.safetensors"
    path.with_name("imagination.safetensors").unlink()  # finished weights are not trained anew
    tensors, recipe = load_tensors(path)
    name = "agent.heads.policy.0.weight"
    save_tensors(path, tensors | {name: tensors[name][:-1]}, recipe)
    before = artefacts(done)
    said = refused("train", "imagination", "--name", "tiny")
    assert f"{path}: {name} has shape [31, 64], the config asks for [32, 64]" in said
    save_tensors(path, {key: value for key, value in tensors.items() if key != name}, recipe)
    assert f"{path} lacks {name}" in refused("train", "imagination", "--name", "tiny")
    assert artefacts(done).keys() == before.keys()
    assert stored(done) == tiny_config(done)


def test_weights_of_another_config(done: Path, refused: Refusal) -> None:
    before = artefacts(done)
    for option in ("--train-tokenizer.lr=0.5", "--tokenizer-objective.mask_max=0.1", "--seed=5"):
        said = refused("run", "--name", "tiny", option)
        assert "delete" in said
    assert artefacts(done) == before and stored(done) == tiny_config(done)


def test_settings_of_finished_stages_are_not_ignored(done: Path, refused: Refusal) -> None:
    """A stage that builds on weights refuses settings that these were not made with, instead of writing them down."""
    (done / "models/tiny/imagination.safetensors").unlink()
    before = artefacts(done)
    for arguments, path in (
        (("train", "imagination", "--dynamics-objective.tau-power=2"), "dynamics"),
        (("train", "imagination", "--tokenizer-objective.mask-max=0.5"), "tokenizer"),
        (("train", "dynamics", "--tokenizer-objective.mask-max=0.5"), "tokenizer"),
        (("encode", "--train-tokenizer.lr=0.5"), "tokenizer"),
        (("evaluate", "--dynamics.context-tau=0.5"), "dynamics"),
        (("evaluate", "--seed=7"), "tokenizer"),
        (("evaluate", "--train-agent.lr=0.5"), "agent"),
        (("evaluate", "--imagination.context=2"), "dynamics"),
        (("train", "imagination", "--imagination.gamma=0.5"), "agent"),
    ):
        said = refused(*arguments, "--name", "tiny")
        assert f"models/tiny/{path}.safetensors was trained with other settings" in said
    assert artefacts(done) == before and stored(done) == tiny_config(done)


def test_a_policy_is_played_with_the_settings_it_learnt_with(done: Path, refused: Refusal) -> None:
    before = artefacts(done)
    said = refused("evaluate", "--imagination.beta=0.1", "--name", "tiny")
    assert "imagination.safetensors was trained with other settings (objective.imagination.beta was" in said
    assert artefacts(done) == before and stored(done) == tiny_config(done)


@pytest.mark.parametrize("name", ["東京", "Łódź 2", "تجربة", "a.b", "-x", "émile"])
def test_a_name_in_letters_of_any_alphabet(
    place: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(dataclasses.replace(tiny_config(place), name=name))
    main(["train", "tokenizer", f"--name={name}", "--train-tokenizer.steps", "2"])
    assert (place / "models" / name / "tokenizer.safetensors").exists()
    assert f"models/{name}/tokenizer.safetensors is finished" not in capsys.readouterr().out
    main(["report", f"--name={name}"])
    assert name in (place / "runs" / name / "report.html").read_text(encoding="utf-8")


def test_a_terminal_without_the_letters_of_a_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embody", "report", "--name", "東京"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2 and "no run in runs/\\u6771\\u4eac" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_whose_folder_was_renamed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "runs/tiny").rename(place / "runs/other")
    main(["train", "tokenizer", "--name", "other", "--train-tokenizer.steps", "2"])
    assert (place / "models/other/tokenizer.safetensors").exists() and not (place / "runs/tiny").exists()
    kept = stored_config(json.loads((place / "runs/other/config.json").read_text()))
    assert kept.name == "other" and kept.train_tokenizer.batch == tiny_config(place).train_tokenizer.batch


def test_a_run_keeps_its_preset(done: Path, refused: Refusal) -> None:
    assert "runs/tiny began as the preset minigrid, not minecraft" in refused("run", "minecraft", "--name", "tiny")


def test_a_full_evaluation_is_asked_for_each_time(done: Path) -> None:
    for name in ("best_demonstrations", "no_world_model", "shuffled_rewards"):
        main(["train", name, "--name", "tiny"])
    main(["evaluate", "--name", "tiny", "--full"])
    assert stored(done).evaluation.full
    main(["evaluate", "--name", "tiny"])
    assert not stored(done).evaluation.full
    results = json.loads((done / "runs/tiny/results.json").read_text())
    assert "best_demonstrations" not in results["success"]


def test_a_damaged_run_config(done: Path, refused: Refusal) -> None:
    path = done / "runs/tiny/config.json"
    for wrong, says in (
        ("{", "is damaged"),
        ("[]", "not a JSON object"),
        ('{"colour": 1}', "unknown field 'colour'"),
        ('{"seed": "x"}', "seed"),
    ):
        path.write_text(wrong)
        said = refused("train", "dynamics", "--name", "tiny")
        assert str(Path("runs/tiny/config.json")) in said and says in said
        assert path.read_text() == wrong


def test_a_place_that_cannot_be_written(refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert "file" in refused("run", "--logs-dir", "file/logs", "--precision", "float32")


def failing(error: Exception) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "tokenizer.safetensors"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "tokenizer.safetensors"),
        UserError("lower its lr"),
    ],
    ids=repr,
)
def test_mistakes_of_users_lose_their_traceback(
    place: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(TokenizerStage, "loss", failing(error))
    assert str(error) in refused("train", "tokenizer", "--name", "tiny")


@pytest.mark.parametrize(
    "error", [ValueError("of our own"), KeyError("tokenizer"), OSError(errno.EIO, os.strerror(errno.EIO))], ids=repr
)
def test_other_errors_keep_their_traceback(place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(TokenizerStage, "loss", failing(error))
    with pytest.raises(type(error)) as raised:
        main(["train", "tokenizer", "--name", "tiny"])
    assert raised.value is error and raised.traceback[-1].name == "fail"


def test_a_traceback_is_printed(place: Path) -> None:
    program = """
from embody.cli import main
from embody.training.tokenizer import TokenizerStage

def loss(*arguments):
    raise KeyError("tokenizer")

TokenizerStage.loss = loss
main(["train", "tokenizer", "--name", "tiny"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and "in loss" in done.stderr, done.stderr


def test_a_full_disk_is_one_line(place: Path, refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert "No space left on device" in refused("train", "tokenizer", "--name", "tiny")
    assert not (place / "models/tiny").exists()


def test_as_many_files_may_be_open_as_the_system_allows(refused: Refusal) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        refused("nonsense")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- what is run ----------------------------------------------------------------------------------------------------


def test_settings_are_kept_with_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "tokenizer", "--name", "tiny", "--train-tokenizer.epochs", "0.25", "--train_tokenizer.lr=3e-3"])
    kept = stored(place)
    assert (kept.train_tokenizer.epochs, kept.train_tokenizer.lr) == (0.25, 3e-3)
    assert kept.train_tokenizer.batch == tiny_config(place).train_tokenizer.batch
    weights = place / "models/tiny/tokenizer.safetensors"
    assert load_tensors(weights)[1]["training"]["lr"] == 3e-3
    # The next command starts from them: the weights count as finished.
    before = weights.stat().st_mtime_ns
    capsys.readouterr()
    main(["train", "tokenizer", "--name=tiny"])
    assert f"{weights} is finished" in capsys.readouterr().out and weights.stat().st_mtime_ns == before
    main(["encode", "--name", "tiny", "--runs_dir", "runs"])
    main(["train", "dynamics", "--name", "tiny", "--train-dynamics.epochs", "0.1"])
    kept = stored(place)
    assert (kept.train_tokenizer.epochs, kept.train_dynamics.epochs) == (0.25, 0.1)
    assert (place / "models/tiny/dynamics.safetensors").exists()


def test_each_command_works_on_what_is_there(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = states(done / "models")
    for stage in ("tokenizer", "dynamics", "agent", "imagination"):
        main(["train", stage, "--name", "tiny"])
    for command in ("collect", "encode"):
        main([command, "--name", "tiny"])
    assert states(done / "models") == before
    for control in ("best_demonstrations", "no_world_model", "shuffled_rewards"):
        main(["train", control, "--name", "tiny"])
        assert (done / f"models/tiny/{control}.safetensors").exists()
    for name in ("results.json", "report.html"):
        (done / "runs/tiny" / name).unlink()
    main(["evaluate", "minigrid", "--name", "tiny", "--evaluation.episodes", "2"])
    results = json.loads((done / "runs/tiny/results.json").read_text())
    assert results["success"]["imagination"]["episodes"] == 2
    assert results["command"] == "embody evaluate minigrid --name tiny --evaluation.episodes 2"
    main(["report", "--name", "tiny"])
    assert (done / "runs/tiny/report.html").exists()
    assert "| success (95% interval) | mean | Fetch-5x5-N2 |" in capsys.readouterr().out


# --- interrupted ----------------------------------------------------------------------------------------------------


def start(arguments: list[str], place: Path) -> subprocess.Popen[str]:
    # A shell's background jobs, such as a CI's, hand on an ignored SIGINT: Python then has no handler for it.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    program += " from embody.cli import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=place, env=environment, text=True, **pipes)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, (process.returncode, *process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_while_training(place: Path) -> None:
    checkpoint, weights = (place / name / "tokenizer.safetensors" for name in ("runs/tiny/checkpoints", "models/tiny"))
    command = ["train", "tokenizer", "--name", "tiny", "--train-tokenizer.epochs", "2000"]
    process = start([*command, "--train-tokenizer.checkpoint-every", "5"], place)
    wait_for(checkpoint.exists, process)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, (out, said)
    assert said == "embody: interrupted (SIGINT); the same command goes on\n"
    assert not weights.exists()
    reached = load_tensors(checkpoint)[1]["step"]
    assert reached >= 5
    # The stored settings are the default, so this goes on; a kill gives no time to say or write anything.
    written = checkpoint.stat().st_mtime_ns
    process = start(["train", "tokenizer", "--name", "tiny"], place)
    wait_for(lambda: checkpoint.stat().st_mtime_ns != written, process)
    process.kill()
    out, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert f"tokenizer: going on from step {reached} of " in out and said == ""
    assert load_tensors(checkpoint)[1]["step"] > reached


def test_an_interrupted_stage_goes_on_to_the_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one process, so that the end can be compared: the interruption comes in the fourth step."""
    store(dataclasses.replace(tiny_config(place), name="whole"))
    main(["train", "tokenizer", "--name", "whole"])
    command = ["train", "tokenizer", "--name", "tiny"]
    loss, calls = TokenizerStage.loss, []

    def interrupted(self: TokenizerStage, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerStage, "loss", interrupted)
        with pytest.raises(SystemExit) as stop:
            main(command)
    assert stop.value.code == 130 and not (place / "models/tiny").exists()
    assert load_tensors(place / "runs/tiny/checkpoints/tokenizer.safetensors")[1]["step"] == 2
    capfd.readouterr()
    main(command)
    assert "going on from step 2 of" in capfd.readouterr().out
    ends = [place / "models" / name / "tokenizer.safetensors" for name in ("tiny", "whole")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.parametrize("asked", [["--episodes", "3"], ["--collect.train-episodes", "3"]])
def test_so_many_episodes_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refusal, asked: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store(tiny_config(tmp_path))
    main(["collect", "--name", "tiny", *asked])
    assert len(open_dataset(tmp_path / "data" / TASK).episodes("train")) == 3
    assert stored(tmp_path).collect.train_episodes == 3
    assert "collect.train_episodes must be at least 1, got 0" in refused("collect", "--name", "tiny", "--episodes", "0")


def test_collecting_is_interrupted_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path)
    store(config)
    write = DatasetWriter.write_shard

    def interrupted(self: DatasetWriter, split: str, *arguments: object) -> None:
        if split == "validation":
            raise KeyboardInterrupt
        write(self, split, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "write_shard", interrupted)
        with pytest.raises(SystemExit) as stop:
            main(["collect", "--name", "tiny"])
    assert stop.value.code == 130
    main(["collect", "--name", "tiny"])
    for name in ("frames/train-00000.h5", "steps/train-00000.parquet", "steps/validation-00000.parquet", "meta.json"):
        assert (tmp_path / "data" / TASK / name).read_bytes() == (recorded / "data" / TASK / name).read_bytes(), name


def test_compare_puts_runs_of_several_seeds_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], refused: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, imagined in enumerate(("1110", "1101", "1011")):
        outcomes = {"seeds": {"a": [0, 3]}, "achieved": {"cloning": {"a": "1000"}, "imagination": {"a": imagined}}}
        write_results(tmp_path / "runs" / f"s{seed}" / "results.json", {"seed": seed, "outcomes": outcomes})
    main(["compare", "s0", "s1", "s2", "--out", "table.md"])
    table = (tmp_path / "table.md").read_text()
    assert "3 training seeds, 4 episodes each" in table and "| a | 25.0% (9-53) | 75.0% (47-91) |" in table
    assert table.strip() in capfd.readouterr().out
    assert "no runs to compare" in refused("compare")
    assert "runs/s3/results.json does not exist: run `embody evaluate --name s3` first" in refused(
        "compare", "s0", "s3"
    )
    assert "training seeds [0, 0]: each must have a seed of its own" in refused("compare", "s0", "s0")
