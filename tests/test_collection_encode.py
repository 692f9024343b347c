"""Latents on disk equal those that the agent computes while acting."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from embody.config import Config
from embody.data import Dataset, LatentWriter, Shard, exclusive_lock, open_dataset, open_latents
from embody.model import Tokenizer, load_tokenizer
from embody.saving.tensors import tensors_hash
from embody.training import encode
from embody.training.encode import encode_dataset
from tests.conftest import TASK, tiny_config


def trained(root: Path) -> tuple[Tokenizer, str]:
    tokenizer, _ = load_tokenizer(tiny_config(root).weights("tokenizer"))
    return tokenizer, tensors_hash(tokenizer.state_dict())


def assert_stored_as_acted(tokenizer: Tokenizer, dataset: Dataset, name: str) -> None:
    latents = open_latents(dataset, name)
    longest = max(dataset.episodes(), key=lambda row: row.length)
    assert longest.length > tokenizer.config.context  # old frames are forgotten on both sides
    for row in (longest, dataset.episodes("train")[0], dataset.episodes("validation")[-1]):
        cache = tokenizer.encoder_cache(1)
        stored = latents.slice(row.id, 0, row.length)
        assert stored.dtype == np.float16
        for t, frame in enumerate(dataset.frames(row.id, 0, row.length)):
            with torch.no_grad():
                acting = tokenizer.encode(torch.from_numpy(frame).permute(2, 0, 1)[None, None], cache=cache)[0, 0]
            np.testing.assert_allclose(stored[t].astype(np.float32), acting, atol=1e-3, rtol=1e-3)


def test_latents_on_disk_equal_those_computed_frame_by_frame(finished: Path) -> None:
    tokenizer, name = trained(finished)
    assert_stored_as_acted(tokenizer, open_dataset(finished / "data" / TASK), name)


def test_so_they_do_where_much_hangs_on_the_past(config: Config) -> None:
    torch.manual_seed(0)
    tokenizer, dataset = Tokenizer(config.tokenizer, config.env.frame), open_dataset(config.dataset_dir(TASK))
    for block in tokenizer.encoder.blocks:  # time layers start as the identity
        torch.nn.init.normal_(block.attention.out.weight, std=3.0)  # type: ignore[union-attr, arg-type]
    encode_dataset(tokenizer, "random", dataset)
    assert_stored_as_acted(tokenizer, dataset, "random")
    latents, differs = open_latents(dataset, "random"), {"no past": 0.0, "all of the past": 0.0}
    for row in dataset.episodes():
        video = torch.from_numpy(dataset.frames(row.id, 0, row.length)).permute(0, 3, 1, 2)
        stored = torch.from_numpy(latents.slice(row.id, 0, row.length).astype(np.float32))
        with torch.no_grad():
            others = {
                "no past": tokenizer.encode(video[:, None])[:, 0],
                "all of the past": tokenizer.encode(video[None])[0],
            }
        for name, other in others.items():
            differs[name] = max(differs[name], float((stored - other).abs().max()))
    assert min(differs.values()) > 0.01, differs


def test_latents_have_mean_0_and_deviation_1(finished: Path) -> None:
    tokenizer, name = trained(finished)
    dataset = open_dataset(finished / "data" / TASK)
    latents = open_latents(dataset, name)
    every = np.concatenate([latents.slice(row.id, 0, row.length) for row in dataset.episodes("train")])
    every = every.astype(np.float32).reshape(-1, tokenizer.config.channels)
    np.testing.assert_allclose(every.mean(axis=0), 0, atol=0.35)  # statistics come from a few batches of clips
    np.testing.assert_allclose(every.std(axis=0), 1, atol=0.35)


def test_encoding_goes_on_after_a_kill_and_then_does_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer, dataset = Tokenizer(config.tokenizer, config.env.frame), open_dataset(config.dataset_dir(TASK))
    encode_dataset(tokenizer, "whole", dataset)
    write = LatentWriter.filling

    @contextmanager
    def die_at_second(self: LatentWriter, shard: Shard) -> Iterator[np.ndarray]:
        with write(self, shard) as latents:
            if shard == dataset.shards[1]:
                raise KeyboardInterrupt
            yield latents

    with monkeypatch.context() as patch:
        patch.setattr(LatentWriter, "filling", die_at_second)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(tokenizer, "killed", dataset)
    with pytest.raises(ValueError, match="incomplete: run `embody encode` again"):
        open_latents(dataset, "killed")
    seen: list[tuple[int, int]] = []
    encode_dataset(tokenizer, "killed", dataset, lambda *state: seen.append(state))
    assert seen == [(1, len(dataset.shards) - 1)]
    for shard in dataset.shards:
        files = [dataset.root / "latents" / name / f"{shard.name}.npy" for name in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()
    encode_dataset(tokenizer, "killed", dataset, lambda *state: seen.append(state))
    assert len(seen) == 1


def test_one_process_at_a_time_encodes(config: Config) -> None:
    tokenizer, dataset = Tokenizer(config.tokenizer, config.env.frame), open_dataset(config.dataset_dir(TASK))
    with exclusive_lock(dataset.root / "latents" / "one"):
        with pytest.raises(ValueError, match="latents/one: another process writes there: wait until it is done"):
            encode_dataset(tokenizer, "one", dataset)
        encode_dataset(tokenizer, "another", dataset)
    encode_dataset(tokenizer, "one", dataset)
    assert len(open_latents(dataset, "one").slice(0, 0, 2)) == 2


def test_a_file_that_cannot_be_opened_is_not_called_damaged(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(config.dataset_dir(TASK))
    encode_dataset(Tokenizer(config.tokenizer, config.env.frame), "abc", dataset)

    def too_many(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
        patch.setattr(np, "load", too_many)
        open_latents(dataset, "abc")
    (dataset.root / "latents" / "abc" / f"{dataset.shards[0].name}.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged: delete the file"):
        open_latents(dataset, "abc")


def test_shards_are_encoded_together_up_to_the_rows_that_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with episodes of several shards in one batch: latents are equal up to rounding."""
    torch.manual_seed(0)
    tokenizer, dataset = Tokenizer(config.tokenizer, config.env.frame), open_dataset(config.dataset_dir(TASK))
    assert len(dataset.shards) == 2 and len(dataset.episodes()) == 32
    sizes: dict[int, list[int]] = {}
    states: list[tuple[int, int]] = []
    for rows in (16, 40):
        monkeypatch.setattr(encode, "_ROWS", rows)
        own, side_by_side = sizes.setdefault(rows, []), tokenizer.encoder_cache
        monkeypatch.setattr(tokenizer, "encoder_cache", lambda n, own=own, made=side_by_side: own.append(n) or made(n))
        encode_dataset(tokenizer, f"rows{rows}", dataset, lambda *state: states.append(state))
        monkeypatch.undo()
    assert sorted(sizes[16]) == [8, 8, 16] and sizes[40] == [32]
    assert states == [(1, 2), (2, 2), (2, 2)]  # shards
    assert [len(group) for group in encode._together(dataset, dataset.shards, 31)] == [1, 1]  # not 31 and one alone
    few, many = (open_latents(dataset, f"rows{rows}") for rows in (16, 40))
    for row in dataset.episodes():
        both = [latents.slice(row.id, 0, row.length).astype(np.float32) for latents in (few, many)]
        np.testing.assert_allclose(*both, atol=2e-3, rtol=2e-3)
