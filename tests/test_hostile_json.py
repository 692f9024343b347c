"""JSON that others wrote is read within bounds, and from regular files only."""

import json
import os
from pathlib import Path

import pytest
import torch

from embody.errors import UserError
from embody.logger_manager import read_metrics
from embody.saving.json_files import MOST_BYTES, parse_json, read_object
from embody.saving.tensors import load_metadata, save_tensors

BAD = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "deep behind strings": json.dumps("[" * 100)[:-1] + '", [' + "[" * 100,
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "a float that overflows": '{"a": 1e999}',
    "many digits": '{"a": ' + "9" * 100_000 + "}",
    "more than 64 bits": f'{{"a": {2**63}}}',
    "half of a surrogate pair": '{"a": "\\ud800"}',
    "long": '"' + "a" * MOST_BYTES + '"',
    "half": '{"a": ',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_beyond_a_bound_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json is damaged .*: delete it"):
        read_object(path, "delete it")


def test_what_is_within_the_bounds_is_read() -> None:
    value = {"a": [1, -(2**63), 2**63 - 1, 0.5, None, "[" * 100 + "\U0001f600"], "b": [[[]]] * 100}
    assert parse_json(json.dumps(value)) == value == parse_json(json.dumps(value).encode())


@pytest.mark.parametrize("content", [b"\xff\xfe", "{}".encode("utf-16"), b"[]", b"null", b""])
def test_other_than_an_object_in_utf8_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_object(tmp_path / "meta.json", "delete it")


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(UserError, match="not a regular file"):
            read_object(tmp_path / name, "delete it")
        with pytest.raises(UserError, match="not a regular file"):
            load_metadata(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder: name a file"):
        load_metadata(tmp_path / "folder")


def test_the_metadata_of_weights_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.safetensors"
    save_tensors(path, {"a": torch.zeros(2)}, {"deep": json.loads("[" * 500 + "]" * 500)})
    with pytest.raises(UserError, match="nested"):
        load_metadata(path)
    for header in (MOST_BYTES + 1, 2**40, 2**64 - 1):
        path.write_bytes(header.to_bytes(8, "little") + path.read_bytes()[8:])
        with pytest.raises(UserError, match="header"):
            load_metadata(path)


def test_metrics_that_are_no_json_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\n' + b"[" * 100_000 + b'\n{"loss": 1e999}\n7\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
