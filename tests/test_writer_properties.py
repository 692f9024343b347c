"""Whatever is written, and wherever writing ends: a dataset is complete and reads back equal, or it says it is not."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embody.config import ActionSpec
from embody.data import EVERY_TASK, DatasetWriter, Episode, Meta, open_dataset
from embody.errors import UserError

VOCABULARY = ("<pad>", "<unknown>", "get", "the", "key")
PLAIN = Meta(("walk", "run"), ActionSpec((7, 3)), 4, 5, 5, VOCABULARY)
EVENTS = Meta(("walk", "run"), ActionSpec((7, 3)), 4, 5, 5, VOCABULARY, labels=("walk", "run"))

Fields = dict[str, Any]


@st.composite
def episodes(draw: st.DrawFn, events: bool) -> Fields:
    """The fields of an episode, in types that a user may have."""
    steps, random = draw(st.integers(1, 4)), np.random.default_rng(draw(st.integers(0, 2**32)))
    fields: Fields = {
        "frames": random.integers(0, 256, (steps, 4, 5, 3)),
        "actions": random.integers(0, (7, 3), (steps, 2)),
        "rewards": random.standard_normal(steps).astype(np.float32),
        "is_terminal": np.arange(steps) == steps - 1,
        "task": draw(st.sampled_from(PLAIN.tasks)),
        "label": draw(st.text(st.characters(codec="utf-8"), max_size=20)),
        "source": draw(st.sampled_from(["expert", "Ä human"])),
        "noise": draw(st.floats(0, 1)),
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
        "success": draw(st.booleans()),
    }
    fields["actions"][0] = fields["rewards"][0] = 0
    if draw(st.booleans()):
        fields["is_null"] = random.random(steps) < 0.5
    if draw(st.integers(0, 3)) == 0:
        fields |= {"labelled": False, "actions": fields["actions"] * 0, "task": EVERY_TASK if events else "walk"}
    elif events:
        fields |= {"events": random.random((steps, 2)) < np.arange(steps)[:, None] / 4, "task": EVERY_TASK}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            forms: dict[str, Any] = {"array": value, "list": value.tolist(), "tensor": torch.from_numpy(value)}
            fields[name] = forms[draw(st.sampled_from(sorted(forms)))]
    return fields


WRONG: list[Fields] = [
    {"rewards": [float("nan")] * 4},
    {"frames": np.zeros((3, 4, 5, 3), np.float32)},
    {"frames": np.zeros((3, 4, 4, 3), np.uint8)},
    {"frames": np.full((3, 4, 5, 3), 256)},
    {"frames": []},
    {"actions": np.full((4, 2), -1)},
    {"actions": [[0, 0], [7, 0], [0, 0], [0, 0]]},
    {"task": "fly"},
    {"label": None},
    {"label": "\ud800"},
    {"seed": 2**63},
]


@contextlib.contextmanager
def failing(at: int, after: bool) -> Iterator[None]:
    """The process is interrupted at the rename number `at`, before or after it."""
    rename, done = os.replace, [0]

    def replace(*paths: Any) -> None:
        done[0] += 1
        if done[0] - 1 == at and not after:
            raise KeyboardInterrupt
        rename(*paths)
        if done[0] - 1 == at:
            raise KeyboardInterrupt

    with mock.patch("embody.saving.atomic_write.os.replace", replace):
        yield


def write(writer: DatasetWriter, shards: list[list[Fields]]) -> None:
    for index in range(writer.shards("train"), len(shards)):
        writer.write_shard("train", index, [Episode(**fields) for fields in shards[index]])
    writer.finish()


def assert_equal(root: Path, shards: list[list[Fields]]) -> None:
    dataset, written = open_dataset(root), [fields for shard in shards for fields in shard]
    assert len(dataset.episodes()) == len(written)
    for number, fields in enumerate(written):
        found = dataset.episode(number)
        for name, value in fields.items():
            np.testing.assert_array_equal(np.asarray(getattr(found, name)), np.asarray(value), err_msg=name)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), events=st.booleans(), wrong=st.none() | st.sampled_from(WRONG), same_writer=st.booleans())
def test_there_is_no_half_dataset(data: st.DataObject, events: bool, wrong: Fields | None, same_writer: bool) -> None:
    meta = EVENTS if events else PLAIN
    valid = data.draw(st.lists(st.lists(episodes(events), min_size=1, max_size=2), min_size=1, max_size=3), "shards")
    given_shards = [list(shard) for shard in valid]
    if wrong is not None:
        place = data.draw(st.integers(0, len(given_shards) - 1), "the wrong episode's shard")
        given_shards[place].append(given_shards[place][0] | wrong)
    at, after = data.draw(st.integers(0, 12), "interrupted at"), data.draw(st.booleans(), "after the rename")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "walk"
        writer = None
        with failing(at, after), contextlib.suppress(UserError, KeyboardInterrupt):
            writer = DatasetWriter(root, meta)
            write(writer, given_shards)
        try:
            open_dataset(root)
        except UserError as error:
            assert "is incomplete" in str(error) or "no dataset in" in str(error)
            again = writer if writer is not None and same_writer else DatasetWriter(root, meta)
            write(again, valid)
        else:
            assert wrong is None
        assert_equal(root, valid)
        assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]
