"""A whole run on a GPU: collected, encoded, trained, dreamt, played, and read again on the CPU."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from embody.config import Config, StageConfig
from embody.data import open_dataset, open_latents
from embody.metrics.results_file import read_results
from embody.model import load_dynamics, load_tokenizer, load_world_and_agent
from embody.saving.tensors import tensors_hash
from embody.trainer import Trainer
from embody.training import loop
from tests.test_crafter_run import tiny_crafter
from tests.tiny_models import make_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA: nothing can be trained on a GPU"),
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = tiny_crafter(tmp_path_factory.mktemp("gpu"))
    evaluation = dataclasses.replace(config.evaluation, full=True)
    collect = dataclasses.replace(config.collect, noise_levels=(0.0,))  # `best_demonstrations` needs such episodes
    config = dataclasses.replace(config, device="cuda", precision=request.param, collect=collect, evaluation=evaluation)
    Trainer(config=config).run(command="embody run tiny")
    return config


def test_every_stage_leaves_weights_that_the_cpu_reads(run: Config) -> None:
    for stage in ("agent", "best_demonstrations", "no_world_model", "imagination", "shuffled_rewards"):
        model, _ = load_world_and_agent(run.weights(stage))
        assert all(parameter.isfinite().all() for parameter in model.parameters()), stage
    results = read_results(run.run_dir / "results.json")
    assert results["machine"]["gpu"] == torch.cuda.get_device_name()
    assert set(results["success"]) >= {"random", "cloning", "imagination", "shuffled_rewards"}


def test_latents_encoded_there_are_those_of_the_cpu(run: Config) -> None:
    tokenizer, _ = load_tokenizer(run.weights("tokenizer"))
    dataset = open_dataset(run.dataset_dir("crafter"))
    latents = open_latents(dataset, tensors_hash(tokenizer.state_dict()))
    for row in dataset.episodes():
        video = torch.from_numpy(dataset.frames(row.id, 0, row.length)).permute(0, 3, 1, 2)[None]
        with torch.no_grad():
            expected = tokenizer.encode_video(video)[0].numpy()
        np.testing.assert_allclose(latents.slice(row.id, 0, row.length), expected, atol=5e-3, rtol=5e-3)


@torch.no_grad()
def test_a_pass_there_is_that_of_the_cpu(run: Config) -> None:
    dynamics, _ = load_dynamics(run.weights("dynamics"))
    batch = make_batch(3, 5)
    z = torch.randn(3, 5, dynamics.config.tokens, dynamics.config.channels)
    tau, d, actions = torch.full((3, 5), 0.5), torch.full((3, 5), 0.25), torch.randint(17, (3, 5, 1))
    inputs = z, tau, d, actions, batch.is_first
    expected = dynamics(*inputs).clean
    found = dynamics.cuda()(*(tensor.cuda() for tensor in inputs)).clean
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


def test_a_stage_goes_on_from_its_checkpoint(run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimisers' state is read back to the GPU."""
    share = loop.learning_rate

    def killed(stage: StageConfig, step: int, steps: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return share(stage, step, steps)

    stage = dataclasses.replace(run.train_dynamics, steps=6, muon_lr=4e-3, checkpoint_every=1)
    config = dataclasses.replace(run, name="again", train_dynamics=stage)
    config.weights("tokenizer").parent.mkdir(parents=True)
    config.weights("tokenizer").write_bytes(run.weights("tokenizer").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", killed)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config=config).train_dynamics()
    trainer = Trainer(config=config)
    resumed = trainer.train_dynamics().state_dict()
    assert "going on from step 3" in next(Path(config.logs_dir).glob("again-*.log")).read_text()
    whole = dataclasses.replace(config, name="whole")
    config.weights("tokenizer").parent.rename(whole.weights("tokenizer").parent)
    whole.weights("dynamics").unlink()
    for name, tensor in Trainer(config=whole).train_dynamics().state_dict().items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-3, rtol=1e-2)
