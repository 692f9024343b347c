"""Disks that are full or read-only, and limits of file sizes: one line names the file, older files stay whole."""

import contextlib
import dataclasses
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embody.config import Config
from embody.errors import WriteError
from embody.run.folder import write_config
from embody.tokenizer import Tokenizer
from embody.trainer import Trainer
from tests.conftest import TASK
from tests.writers import LARGE, SMALL, WRITERS

APPENDED = ("log", "metrics", "event file")  # files that grow; a half line at their end does no harm

# Arguments: writer, mount point. Fills the disk, writes, makes room, writes again; prints what the error said.
ON_A_FULL_DISK = """
import shutil, sys
from pathlib import Path
from embody.errors import WriteError
from tests.test_full_disk import contents
from tests.writers import LARGE, SMALL, WRITERS
for name, write in WRITERS.items():
    folder = Path(sys.argv[1]) / name / "folder"
    folder.mkdir(parents=True)
    write(folder, SMALL)
    before = contents(folder)
    filler = folder.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - 20 * 4096)
    try:
        write(folder, LARGE)
        print(name, "no error")
    except WriteError as error:
        print(name, "|", error)
    after = contents(folder)
    print(name, "whole", all(after[path].startswith(content) for path, content in before.items()))
    print(name, "left", [str(path) for path in folder.rglob("*.tmp")])
    filler.unlink()
    write(folder, LARGE)
    shutil.rmtree(folder.parent)
"""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def in_own_mounts(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell script that may mount; nothing outside sees the mounts, and they end with it."""
    if sys.platform != "linux" or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("unshare -m is not permitted here")
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes(name: str, tmp_path: Path) -> None:
    folder, write = tmp_path / "folder", WRITERS[name]
    folder.mkdir()
    write(folder, SMALL)
    before = contents(folder)
    with file_limit(120_000), pytest.raises(WriteError, match="File too large.*ulimit -f") as raised:
        write(folder, LARGE)
    assert str(raised.value).startswith(str(folder)), raised.value
    after = contents(folder)
    if name in APPENDED:
        assert all(after[path].startswith(content) for path, content in before.items())
    else:
        assert {path: after[path] for path in before} == before
    assert not list(folder.rglob("*.tmp"))
    write(folder, LARGE)  # as if nothing had happened


def test_a_full_disk(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=4m none "$1"; "$2" -c "$3" "$1"'
    done = in_own_mounts(script, str(tmp_path), sys.executable, ON_A_FULL_DISK)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(WRITERS) and not done.stderr
    for name, (said, whole, left) in zip(WRITERS, zip(*[iter(lines)] * 3, strict=True), strict=True):
        assert said.startswith(f"{name} | {tmp_path}/{name}/folder/") and "No space left on device" in said
        assert whole == f"{name} whole True" and left == f"{name} left []"
        if name not in (*APPENDED, "video"):
            assert " needed, 0.0" in said, said


@pytest.mark.parametrize("name", WRITERS)
def test_files_have_the_modes_of_the_umask(name: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (tmp_path / "folder").mkdir()
        WRITERS[name](tmp_path / "folder", SMALL)
    finally:
        os.umask(before)
    for path in (tmp_path / "folder").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def words_of_training(config: Config) -> list[str]:
    places = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in ("data_dir", "models_dir", "logs_dir")]
    return [sys.executable, "-m", "embody", "train", "tokenizer", "--name=tiny", *places]


def test_a_training_whose_disk_fills_up_goes_on(config: Config, tmp_path: Path) -> None:
    stage = dataclasses.replace(config.train_tokenizer, steps=6, checkpoint_every=2)
    write_config(dataclasses.replace(config, train_tokenizer=stage))
    weights = sum(p.numel() for p in Tokenizer(config.tokenizer, config.env.frame).parameters()) * 4
    # A checkpoint has the weights, their average and the optimisers' state. There is room for one, but not for two.
    script = """
        cd "$1"; size=$2; shift 2
        mkdir full
        mount -t tmpfs -o size=$size none full
        cp -r runs/. full
        "$@" --runs-dir=full && exit 1 || echo "code $?"
        ls -A full/tiny/checkpoints
        mount -o remount,size=50m full
        "$@" --runs-dir=full; echo "code $?"
    """
    done = in_own_mounts(script, str(tmp_path), str(int(weights * 5.5)), *words_of_training(config))
    assert done.returncode == 0, done.stdout + done.stderr
    first, _, second = done.stdout.partition("code 2\n")
    assert done.stderr.startswith(
        "embody: full/tiny/checkpoints/tokenizer.safetensors cannot be written: No space left on device ("
    )
    assert done.stderr.count("\n") == 1 and "going on" not in first
    assert second.startswith("tokenizer.safetensors\n") and "going on from step 2 of 6" in second
    assert second.endswith("code 0\n") and (tmp_path / "models/tiny/tokenizer.safetensors").exists()


@pytest.mark.parametrize("folder", ["models", "runs", "logs"])
def test_a_read_only_folder_is_found_before_training(folder: str, config: Config, tmp_path: Path) -> None:
    write_config(config)
    script = """
        cd "$1"; folder=$2; shift 2
        mkdir -p $folder
        mount --bind $folder $folder
        mount -o remount,bind,ro $folder
        "$@" --runs-dir=runs
    """
    done = in_own_mounts(script, str(tmp_path), folder, *words_of_training(config))
    assert done.returncode == 2, done.stderr
    place = folder if folder == "runs" else f"{tmp_path}/{folder}"
    assert done.stderr.startswith(f"embody: {place}/")
    assert "cannot be written: Read-only file system: allow writing there" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "runs/tiny/metrics.jsonl").exists()


def test_a_read_only_folder_is_found_before_anything_is_collected(config: Config, tmp_path: Path) -> None:
    for models in (config.models_dir, f"{config.data_dir}/{TASK}/latents"):
        Path(models).parent.mkdir(exist_ok=True)
        Path(models).write_text("a file in the way")
        with pytest.raises(WriteError, match=f"{models}.* cannot be written"):
            Trainer(config=config).run()
        Path(models).unlink()
    assert not (config.run_dir / "metrics.jsonl").exists()
