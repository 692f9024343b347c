"""GPUs without bfloat16 units: the precision that is chosen, what is refused, and training in float16 with a scale."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from embody.config import Config
from embody.data.sampling.batch import Batch
from embody.errors import UserError
from embody.model import for_inference
from embody.nn.precision import Precision, check_precision
from embody.saving.tensors import load_tensors, save_tensors
from embody.trainer import Trainer
from embody.training import loss_scale
from embody.training.loop import StepContext
from tests.test_training import OneNumber, losses, run
from tests.tiny_models import make_dynamics

# --- the choice -----------------------------------------------------------------------------------------------------


@pytest.fixture()
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def fake(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return fake


@pytest.mark.parametrize(
    ("capability", "chosen"), [((6, 1), "float32"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((12, 0), "bfloat16")]
)
def test_auto_chooses_a_format_that_the_gpu_has_units_for(
    gpu: Any, config: Config, capability: tuple[int, int], chosen: str
) -> None:
    gpu(*capability)
    auto = dataclasses.replace(config, device="auto", precision="auto")
    assert Trainer(config=auto).config.precision == chosen


def test_bfloat16_is_never_emulated_in_silence(gpu: Any, config: Config) -> None:
    gpu(7, 5)
    asked = dataclasses.replace(config, device="cuda", precision="bfloat16")
    with pytest.raises(UserError, match=r"precision bfloat16: this GPU \(compute capability 7.5\).*: choose float16$"):
        Trainer(config=asked)
    assert Trainer(config=dataclasses.replace(asked, precision="float16")).config.precision == "float16"
    refused: tuple[Precision, ...] = ("bfloat16", "int8", "float8")
    for precision in refused:
        with pytest.raises(UserError, match=f"precision {precision}.*choose float16"):
            check_precision(precision, torch.device("cuda"))
    check_precision("bfloat16", torch.device("cpu"))
    gpu(8, 0)
    check_precision("bfloat16", torch.device("cuda"))


def test_float16_matrices_are_cast_once() -> None:
    dynamics = for_inference(make_dynamics(), precision="float16")
    kinds = {weight.dtype for block in dynamics.trunk.blocks for weight in block.parameters() if weight.ndim == 2}
    assert kinds == {torch.float16}
    assert {ring.dtype for ring in dynamics.new_cache(1, 4).k} == {torch.float16}


# --- the scale ------------------------------------------------------------------------------------------------------


class Gradients(OneNumber):
    """The loss is 0 and finite; its gradient is a factor, computed in float16."""

    def __init__(self, factors: list[float], **fields: Any) -> None:
        super().__init__(factors, clip=1e9, **fields)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        (weight,) = self.model.parameters()
        half = (weight - weight.detach()).half()
        half.register_hook(lambda gradient: gradient * batch.rewards.half())
        return half.float().sum(), {}


def saved(path: Path) -> Mapping[str, Any]:
    return load_tensors(path)[1]


def test_an_overflow_of_the_scale_is_left_out_and_not_counted(tmp_path: Path) -> None:
    """With 65536 and 32768 a gradient of 3 is beyond 65504, the largest float16; with 16384 it is not."""
    path = run(Gradients([3.0] * 5), tmp_path, precision="float16")
    assert losses(tmp_path, "loss_scale") == [32768, 16384, 16384, 16384, 16384]
    assert losses(tmp_path, "skipped_steps") == [0] * 5
    assert {name: saved(path)[name] for name in ("skipped", "in_a_row", "steps_at_scale")} == {
        "skipped": 0,
        "in_a_row": 0,
        "steps_at_scale": 3,
    }
    assert float(load_tensors(path)[0]["model.weight"]) == pytest.approx(1 - 3 * 0.1)  # AdamW steps by its rate


def test_a_small_gradient_is_not_lost(tmp_path: Path) -> None:
    """1e-8 is 0 in float16."""

    class Tiny(Gradients):
        def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
            return super().loss(batch, context)[0] * 1e-3, {}

    path = run(Tiny([1e-5] * 2), tmp_path, precision="float16")
    assert losses(tmp_path, "gradient_norm") == pytest.approx([1e-8] * 2, rel=1e-2)
    assert float(load_tensors(path)[0]["model.weight"]) == pytest.approx(0.8, abs=0.1)


def test_gradients_that_overflow_without_a_scale_are_counted(tmp_path: Path) -> None:
    """Sixteen steps bring the scale from 65536 to 1; twenty more end the training."""
    with pytest.raises(UserError, match="one: 20 steps in a row up to step 36 had a loss or gradient"):
        run(Gradients([math.inf] * 60, checkpoint_every=1000), tmp_path, precision="float16")
    assert losses(tmp_path, "skipped_steps") == [0] * 16 + list(range(1, 20))


def test_a_loss_that_is_not_finite_is_counted_and_leaves_the_scale(tmp_path: Path) -> None:
    path = run(OneNumber([1.0, math.nan, 1.0]), tmp_path, precision="float16")
    assert losses(tmp_path, "skipped_steps")[-1] == 1
    assert saved(path)["steps_at_scale"] == 1


def test_the_scale_grows_and_a_resumed_training_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "_GROWTH_INTERVAL", 3)
    factors = [3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0]
    whole = run(Gradients(factors), tmp_path / "whole", precision="float16")
    # Two overflows; three finite steps double the scale to 32768; a gradient of 3 overflows.
    scales = [32768, 16384, 16384, 16384, 32768, 32768, 32768, 16384, 16384]
    assert losses(tmp_path / "whole", "loss_scale") == scales
    for stop in (1, 4, 7, len(factors)):
        parts = run(Gradients(factors), tmp_path / "parts", precision="float16", stop=stop)
    assert saved(parts) == saved(whole)
    for name, value in load_tensors(whole)[0].items():
        assert torch.equal(load_tensors(parts)[0][name], value)


@pytest.mark.parametrize("wrong", [0.5, -1.0, "65536", None])
def test_a_checkpoint_with_another_scale_is_refused(tmp_path: Path, wrong: object) -> None:
    path = run(OneNumber([1.0] * 3), tmp_path, stop=1)
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, "loss_scale": wrong})
    with pytest.raises(UserError, match="is not a checkpoint of this version"):
        run(OneNumber([1.0] * 3), tmp_path)


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_every_stage_trains_in_float16(config: Config) -> None:
    trainer = Trainer(config=dataclasses.replace(config, precision="float16"))
    trainer.train_tokenizer()
    trainer.encode()
    trainer.train_dynamics()
    trainer.train_agent()
    trained = trainer.train_imagination()
    assert all(parameter.isfinite().all() for parameter in trained.parameters())
    for stage in ("tokenizer", "dynamics", "agent", "imagination"):
        progress = saved(config.finished_state(stage))
        assert progress["skipped"] == 0 and progress["steps_at_scale"] > 0, stage
