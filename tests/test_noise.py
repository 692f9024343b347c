"""Noise belongs to a row: what a row draws, and what a step learns from it, hang on no other row of the process."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embody.data.sampling.batch import Batch
from embody.dynamics import ShortcutLoss
from embody.nn.masked_mean import Reduce, one_process
from embody.nn.noise import RowNoise, _mixed
from embody.tokenizer import TokenizerLoss
from tests.processes import side_by_side
from tests.tiny_models import CONFIG, make_batch, make_dynamics, make_frames, make_tokenizer

SPLITS = ([range(0, 2), range(2, 8)], [range(0, 8, 2), range(1, 8, 2)])  # of eight rows


def test_the_hash_is_splitmix64() -> None:
    """The first numbers of its reference implementation from seed 0."""
    golden = 0x9E3779B97F4A7C15
    assert [hex(_mixed(n * golden)) for n in (1, 2, 3)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_rows_draw_the_same_alone() -> None:
    whole, alone = RowNoise(3, 7), RowNoise(3, 7, rows=range(2, 5), total=9)
    for draw in (lambda n, rows: n.normal(rows, 5, 3), lambda n, rows: n.uniform(rows), lambda n, rows: n.normal(rows)):
        assert torch.equal(draw(whole, 9)[2:5], draw(alone, 3))
    part, of_part = whole.part([0, 3, 4], 3), alone.part([1, 2], 3)
    assert torch.equal(part.normal(3, 4)[1:], of_part.normal(2, 4))
    assert not torch.equal(part.normal(3, 4), whole.normal(9, 4)[:3])


def test_seeds_steps_rows_and_draws_differ() -> None:
    noises = [RowNoise(seed, step) for seed in (0, 1, 5) for step in (0, 1, 2)]
    rows = torch.cat([noise.normal(3, 4000) for noise in noises for _ in range(2)])
    apart = torch.corrcoef(rows) - torch.eye(len(rows))
    assert apart.abs().max() < 5 / 4000**0.5


def test_numbers_are_uniform_and_normal() -> None:
    uniform, normal = RowNoise(1).uniform(50, 4001).double(), RowNoise(2).normal(50, 4001).double()
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    assert [float((uniform**n).mean()) for n in (1, 2, 3)] == pytest.approx([1 / 2, 1 / 3, 1 / 4], abs=4e-3)
    assert [float((normal**n).mean()) for n in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert normal.min() < -4 and normal.max() > 4
    neighbours = torch.stack((normal[:, :-1].flatten(), normal[:, 1:].flatten()))
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.01


@pytest.mark.parametrize("split", SPLITS)
def test_groups_are_of_the_whole_batch(split: Sequence[range]) -> None:
    sizes = []
    for step in range(400):
        images, stepped = RowNoise(0, step).groups(8, (0.3, 0.25))
        assert images.rows.start == 0 and images.rows.stop == stepped.rows.start
        sizes.append((images.rows.stop, stepped.rows.stop - stepped.rows.start))
        for rows in split:
            for group, whole in zip(
                RowNoise(0, step, rows=rows, total=8).groups(len(rows), (0.3, 0.25)), (images, stepped), strict=True
            ):
                assert list(rows[group.rows]) == [row for row in rows if whole.rows.start <= row < whole.rows.stop]
                assert group.share == whole.share == (whole.rows.stop - whole.rows.start) / 8
    assert {size for size, _ in sizes} == {2, 3} and {size for _, size in sizes} == {2}
    assert sum(size for size, _ in sizes) / 400 == pytest.approx(2.4, abs=0.1)


Run = Callable[[Any, Sequence[int], RowNoise, Reduce], tuple[Tensor, dict[str, Tensor]]]


def check_that_parts_make_the_whole(model: nn.Module, loss: nn.Module, split: Sequence[range], run: Run) -> None:
    """Two processes' losses, metrics, gradients and running statistics are those of one with all eight rows."""

    def step(rows: Sequence[int], reduce: Reduce) -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
        own_model, own_loss = copy.deepcopy((model, loss))
        total, metrics = run((own_model, own_loss), rows, RowNoise(3, 7, rows=rows, total=8), reduce)
        total.backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own_model.parameters()]
        return {**metrics, "loss": total.detach()}, gradients, own_loss.state_dict()

    whole_metrics, whole_gradients, whole_statistics = step(range(8), one_process)
    parts = side_by_side(2, lambda rank, reduce: step(split[rank], reduce))
    for name, value in whole_metrics.items():
        torch.testing.assert_close(sum(metrics[name] for metrics, *_ in parts) / 2, value)
    for gradient, first, second in zip(whole_gradients, parts[0][1], parts[1][1], strict=True):
        torch.testing.assert_close((first + second) / 2, gradient, atol=1e-5, rtol=1e-4)
    for _, _, statistics in parts:
        torch.testing.assert_close(statistics, whole_statistics)


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    return Batch(**{name: None if field is None else field[list(rows)] for name, field in vars(batch).items()})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("step_draw", ["partial", "uniform"])
def test_a_step_of_the_dynamics_in_two_processes(step_draw: Any, split: Sequence[range]) -> None:
    objective = dataclasses.replace(
        CONFIG.dynamics_objective, step_draw=step_draw, image_fraction=0.25, bootstrap_fraction=0.25
    )
    batch = make_batch(8, 5)
    batch.mask[3, 2:] = False  # one process has fewer real timesteps

    def run(own: Any, rows: Sequence[int], noise: RowNoise, reduce: Reduce) -> tuple[Tensor, dict[str, Tensor]]:
        return own[1](own[0], rows_of(batch, rows), noise, bootstrap=True, reduce=reduce)

    check_that_parts_make_the_whole(make_dynamics(), ShortcutLoss(objective), split, run)


@pytest.mark.parametrize("split", SPLITS)
def test_a_step_of_the_tokenizer_in_two_processes(split: Sequence[range]) -> None:
    frames, mask = make_frames(8, 3), torch.ones(8, 3, dtype=torch.bool)
    mask[0, 1:] = False

    def run(own: Any, rows: Sequence[int], noise: RowNoise, reduce: Reduce) -> tuple[Tensor, dict[str, Tensor]]:
        return own[1](own[0], frames[list(rows)], mask[list(rows)], noise, reduce=reduce)

    objective = dataclasses.replace(CONFIG.tokenizer_objective, random_crop=2)
    check_that_parts_make_the_whole(make_tokenizer(), TokenizerLoss(objective), split, run)
