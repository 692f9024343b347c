"""The folder of a run that another person made cannot lead writing, or the report, elsewhere."""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from embody.cli.settings import base_config
from embody.config import Config, to_dict
from embody.errors import UserError
from embody.evaluation.report import write_report
from embody.games.minigrid.presets import minigrid
from embody.logger_manager import LoggerManager
from embody.metrics.pictures import png
from embody.run.folder import check_run_folder
from embody.saving.atomic_write import atomic_write, open_to_append

RUN = Path("runs", "theirs")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, beside which there is a folder of the user's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "private").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def store(config: Config) -> None:
    RUN.mkdir(parents=True)
    (RUN / "config.json").write_text(json.dumps(to_dict(config)))


def test_name_and_folder_come_from_where_the_config_was_found() -> None:
    store(dataclasses.replace(minigrid(), name="private", runs_dir="/private", seed=5))
    found = base_config(["report", "--name", "theirs"])
    assert (found.name, found.runs_dir, found.seed) == ("theirs", "runs", 5)
    assert found.run_dir == RUN


@pytest.mark.parametrize("field", ["data_dir", "models_dir", "logs_dir", "cache_dir"])
@pytest.mark.parametrize("folder", ["../private", "/private", "data/../../private", "~/private", "a\0b"])
def test_a_folder_elsewhere_must_be_named_again(field: str, folder: str) -> None:
    store(dataclasses.replace(minigrid(), **{field: folder}))
    option = f"--{field.replace('_', '-')}"
    with pytest.raises(UserError, match=rf"config\.json has {field} .*name it again: {option}"):
        base_config(["evaluate", "--name", "theirs"])
    base_config(["evaluate", "--name", "theirs", option, folder])
    base_config(["evaluate", "--name", "theirs", f"{option}=models"])


def test_folders_inside_the_current_one_need_not_be_named(here: Path) -> None:
    store(dataclasses.replace(minigrid(), data_dir=str(here / "my" / "data"), models_dir="./weights"))
    assert base_config(["evaluate", "--name", "theirs"]).models_dir == "./weights"


@pytest.mark.parametrize("outside", ["../../private", "/private"])
def test_datasets_and_weights_elsewhere_must_be_named_again(outside: str) -> None:
    plain = minigrid()
    store(plain)
    path = RUN / "config.json"
    for field, changed in {
        "data.sources": {"data": dataclasses.replace(plain.data, sources=("a", outside))},
        "train_tokenizer.init_from": {
            "train_tokenizer": dataclasses.replace(plain.train_tokenizer, init_from=f"{outside}/t.safetensors")
        },
    }.items():
        path.write_text(json.dumps(to_dict(dataclasses.replace(plain, **changed))))
        with pytest.raises(UserError, match=f"has {field} "):
            base_config(["encode", "--name", "theirs"])


@pytest.mark.parametrize("inside", ["metrics.jsonl", "checkpoints", "tensorboard/tokenizer", "pictures/a.png"])
def test_a_link_in_the_folder_of_a_run_is_refused(inside: str) -> None:
    store(minigrid())
    check_run_folder(RUN)
    (RUN / inside).parent.mkdir(exist_ok=True)
    (RUN / inside).symlink_to("../../../private")
    with pytest.raises(UserError, match="is a link"):
        check_run_folder(RUN)


def test_a_folder_of_other_things_is_not_taken_for_a_run() -> None:
    check_run_folder(RUN)
    RUN.mkdir(parents=True)
    check_run_folder(RUN)
    (RUN / "metrics.jsonl").write_text("")  # of a run that ended before its config was written
    (RUN / ".config.json.0123.tmp").write_text("")
    check_run_folder(RUN)
    (RUN / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"holds thesis\.txt but no run"):
        check_run_folder(RUN)
    (RUN / "config.json").write_text('{"architectures": ["other"]}')
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        check_run_folder(RUN)


def test_a_temporary_file_is_new_and_has_a_name_that_nobody_knows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(2):
        with atomic_write(here / "a.json") as temporary:
            names.append(temporary.name)
            temporary.write_text("x")
    assert len(set(names)) == 2
    monkeypatch.setattr("embody.saving.atomic_write.secrets.token_hex", lambda length: "known")
    (here / ".a.json.known.tmp").symlink_to(here.parent / "private" / "file")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(here / "a.json"):
        pytest.fail("the temporary file was opened through a link")
    assert not (here.parent / "private" / "file").exists()


def test_what_a_killed_process_left_is_removed_after_a_day(here: Path) -> None:
    for name, age in ((".a.json.1.tmp", 2 * 24 * 3600), (".a.json.2.tmp", 60)):
        (here / name).write_text("")
        os.utime(here / name, (time.time() - age,) * 2)
    with atomic_write(here / "a.json") as temporary:
        temporary.write_text("x")
    assert sorted(path.name for path in here.iterdir()) == [".a.json.2.tmp", "a.json"]


def test_metrics_and_lines_are_not_appended_through_a_link(here: Path) -> None:
    target = here.parent / "private" / "notes"
    target.write_text("half a line")
    (here / "metrics.jsonl").symlink_to(target)
    logger = LoggerManager(here, here / "logs", "test")
    with pytest.raises(UserError, match="link"):
        logger.metrics("tokenizer", 1, {"loss": 1.0})
    logger.close()
    os.mkfifo(here / "pipe")
    with pytest.raises(UserError, match="cannot be written"):
        open_to_append(here / "pipe")
    assert target.read_text() == "half a line"


def test_a_picture_that_is_a_link_is_not_in_the_report(here: Path) -> None:
    pictures = here / "pictures"
    pictures.mkdir()
    picture = png(np.zeros((1, 1, 8, 8, 3), np.uint8))
    (pictures / "own.png").write_bytes(picture)
    (here.parent / "private" / "photo.png").write_bytes(picture)
    (pictures / "photo.png").symlink_to(here.parent / "private" / "photo.png")
    page = write_report(here).read_text()
    assert page.count("data:image/png") == 1 and "photo" not in page
