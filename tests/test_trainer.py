"""A tiny run of all phases: its files, a second call, and refusals."""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from embody.agent import AgentLoss
from embody.config import Config, to_dict
from embody.data import DatasetWriter, Episode, Meta, open_dataset, open_datasets
from embody.errors import UserError
from embody.evaluation.run import FinishedParts, evaluate_run
from embody.games import evaluation, evaluation_seeds
from embody.games.success import demonstrations
from embody.logger_manager import read_metrics
from embody.metrics.outcomes import outcomes_of
from embody.metrics.results_file import lookup, read_results
from embody.model import load_dynamics, load_tokenizer
from embody.nn.noise import GeneratorNoise
from embody.run.folder import record_stage
from embody.run.provenance import check_upstream
from embody.saving.tensors import load_tensors, save_tensors, tensors_hash
from embody.trainer import Trainer
from embody.training.agent import AgentStage
from embody.training.dynamics import DynamicsStage
from tests.conftest import TASK, killed_at, tiny_config

STAGES = ("tokenizer", "dynamics", "agent", "imagination")
RATES = ("mean", "low", "high")
POLICIES = ("random", "demonstrations", "cloning", "imagination")
STABLE_KEYS = (
    "tokenizer.psnr_db",
    "tokenizer.cell_accuracy",
    "dynamics.gain_over_copy_db",
    "dynamics.changed_cell_accuracy_h10",
    "dynamics.action_shuffle_ratio",
    "dynamics.action_shuffle_ratio_noised",
    "dynamics_before_agent.gain_over_copy_db",
    "dynamics.reward_recall",
    "dynamics.reward_precision",
    *(f"{part}.{key}" for part in ("dynamics", "dynamics_before_agent") for key in ("ssim", "frechet")),
    "dynamics.lpips",
    *(f"dynamics.horizon.{key}" for key in ("ssim", "copy_ssim", "lpips", "frechet", "copy_frechet", "rollouts")),
    *(f"dynamics.rewards_within.{key}" for key in ("tolerance", "precision", "recall", f"tasks.{TASK}.recall")),
    *(f"dynamics.returns.{name}.{key}" for name in ("imagined", "value") for key in ("correlation", "mean_error")),
    *("tokenizer.ssim", "against_cloning.imagination.p", f"outcomes.achieved.cloning.{TASK}"),
    *(f"success.{policy}.{rate}" for policy in POLICIES for rate in RATES),
    *(f"success.{policy}.tasks.{TASK}.{rate}" for policy in POLICIES for rate in RATES),
    "wall_seconds",
    "seed",
)


def has(results: Mapping[str, Any], key: str) -> bool:
    *path, last = key.split(".")
    return last in (lookup(results, ".".join(path)) if path else results)


def states(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*") if path.is_file()}


def changed(config: Config, stage: str, **fields: Any) -> Config:
    return dataclasses.replace(config, **{stage: dataclasses.replace(getattr(config, stage), **fields)})


# --- what a run leaves ----------------------------------------------------------------------------------------------


def test_results_have_their_stable_keys(finished: Path) -> None:
    results = read_results(finished / "runs" / "tiny" / "results.json")
    assert [key for key in STABLE_KEYS if not has(results, key)] == []
    for key in ("tokenizer.psnr_db", "tokenizer.cell_accuracy", "dynamics.gain_over_copy_db", "wall_seconds"):
        assert isinstance(lookup(results, key), float), key
    for policy in POLICIES:
        low, mean, high = (lookup(results, f"success.{policy}.{rate}") for rate in ("low", "mean", "high"))
        assert 0 <= low <= mean <= high <= 1
    assert lookup(results, "success.cloning.episodes") == 3
    assert not {"best_demonstrations", "shuffled_rewards"} & set(results["success"])
    assert (results["seed"], results["command"]) == (0, "embody run tiny")


def test_results_tell_of_every_episode(finished: Path) -> None:
    results = read_results(finished / "runs" / "tiny" / "results.json")
    (task, outcomes), (_, (first, last)) = ((TASK, results["outcomes"]), *results["outcomes"]["seeds"].items())
    assert list(range(first, last + 1)) == evaluation_seeds(tiny_config(finished), task, 3)
    for policy in ("random", "cloning", "imagination"):
        assert outcomes["achieved"][policy][task].count("1") / 3 == lookup(results, f"success.{policy}.mean")
    assert set(results["against_cloning"]) == {"random", "imagination"}
    value = results["against_cloning"]["imagination"]["value"]
    means = (lookup(results, f"success.{policy}.mean") for policy in ("imagination", "cloning"))
    assert value == pytest.approx(next(means) - next(means))
    names, found = outcomes_of([results, results])
    assert names == (TASK,) and found["imagination"].shape == (2, 3, 1)


def test_results_count_what_the_data_says(finished: Path) -> None:
    results = read_results(finished / "runs" / "tiny" / "results.json")
    dataset = open_dataset(finished / "data" / TASK)
    rows = dataset.episodes("validation")
    assert demonstrations([dataset], "validation").tasks[TASK] == (sum(row.success for row in rows), 8)
    assert lookup(results, "success.demonstrations.mean") == pytest.approx(sum(row.success for row in rows) / 8)
    assert results["tokenizer"]["frames"] == sum(row.length for row in dataset.episodes("validation"))
    stages = {"collect", "tokenizer", "encode", "dynamics", "agent", "imagination", "evaluate"}
    # The session's datasets are recorded before its run begins.
    assert set(results["stage_seconds"]) | {"collect"} == stages
    assert results["wall_seconds"] == pytest.approx(sum(results["stage_seconds"].values()))


def test_the_report_is_one_file_that_needs_no_network(finished: Path) -> None:
    page = (finished / "runs" / "tiny" / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'>\s]+""", page)
    assert not re.findall(r"@import|url\((?!['\"]?data:)|<link|fetch\(|XMLHttpRequest", page)
    for part in ("embody run tiny", TASK, "data:image/", "wall time"):
        assert part.lower() in page.lower(), part
    assert "preset minigrid ·" in page  # not the run's name
    assert (finished / "runs" / "tiny" / "pictures" / "dream.gif").read_bytes()[:4] == b"GIF8"


def test_the_run_is_where_the_config_says(finished: Path) -> None:
    config = tiny_config(finished)
    assert json.loads((config.run_dir / "config.json").read_text()) == json.loads(json.dumps(to_dict(config)))
    for stage in STAGES:
        assert load_tensors(config.weights(stage))[1]["training"]["lr"] == 2e-3
    assert {line["stage"] for line in read_metrics(config.run_dir / "metrics.jsonl")} == set(STAGES)
    assert all(stage in next(Path(config.logs_dir).iterdir()).read_text() for stage in STAGES)
    latents = config.dataset_dir(TASK) / "latents"
    tokenizer, _ = load_tokenizer(config.weights("tokenizer"))
    assert [folder.name for folder in latents.iterdir()] == [tensors_hash(tokenizer.state_dict())]


# --- the second time ------------------------------------------------------------------------------------------------


def test_a_second_run_trains_nothing(finished_config: Config) -> None:
    config = finished_config
    roots = [Path(config.models_dir), Path(config.data_dir), config.run_dir / "checkpoints"]
    before = [states(root) for root in roots]
    metrics = (config.run_dir / "metrics.jsonl").read_bytes()
    first = read_results(config.run_dir / "results.json")
    Trainer(config=config).run(command="embody run tiny")
    assert [states(root) for root in roots] == before
    assert (config.run_dir / "metrics.jsonl").read_bytes() == metrics
    second = read_results(config.run_dir / "results.json")
    for part in ("tokenizer", "dynamics", "success"):
        assert first[part] == second[part], part  # measured anew, from the same seeds


def test_full_adds_the_controls(finished_config: Config) -> None:
    config = changed(finished_config, "evaluation", full=True)
    before = states(Path(config.models_dir))
    Trainer(config=config).run()
    after = states(Path(config.models_dir))
    assert {path: after[path] for path in before} == before
    results = read_results(config.run_dir / "results.json")
    for policy in ("best_demonstrations", "no_world_model", "shuffled_rewards"):
        assert all(has(results, f"success.{policy}.{rate}") for rate in RATES), policy
        assert lookup(results, f"success.{policy}.episodes") == 4
    recipes = {name: load_tensors(config.weights(name))[1] for name in ("shuffled_rewards", "imagination")}
    assert [recipes[name]["objective"]["imagination"]["shuffle_rewards"] for name in recipes] == [True, False]
    assert recipes["shuffled_rewards"]["upstream"] == recipes["imagination"]["upstream"]


class _Begun(Exception):
    pass


def begins_with(config: Config, stage: str, run: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The arguments that the trainer passes to the class `stage` when it starts the training `run`."""
    handed: list[tuple[Any, ...]] = []

    def begin(*given: Any, name: str) -> Any:
        handed.append(given)
        raise _Begun

    monkeypatch.setattr(f"embody.run.trainings.{stage}", begin)
    with pytest.raises(_Begun):
        {
            "shuffled_rewards": lambda: Trainer(config=config).train("shuffled_rewards"),
            "best_demonstrations": lambda: Trainer(config=config).train("best_demonstrations"),
        }[run]()
    return handed[0]


def test_the_controls_are_what_they_are_called(finished_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = begins_with(finished_config, "ImaginationStage", "shuffled_rewards", monkeypatch)[0]
    assert config.imagination.shuffle_rewards and not finished_config.imagination.shuffle_rewards
    *_, best = begins_with(finished_config, "AgentStage", "best_demonstrations", monkeypatch)
    row = next(row for row in open_datasets(finished_config)[0].episodes() if row.source == "expert")
    kinds = [("expert", 0.0), ("expert", 0.25), ("off_task", 0.0), ("random", 0.0)]
    kept = [best(dataclasses.replace(row, source=source, noise=noise)) for source, noise in kinds]
    assert kept == [True, False, False, False]


def test_policies_play_the_seeds_that_the_results_name(
    finished_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Any] = []
    whole = evaluation.play
    monkeypatch.setattr(
        evaluation, "play", lambda env, task, seeds, *rest: played.append(seeds) or whole(env, task, seeds, *rest)
    )
    Trainer(config=finished_config).evaluate()
    assert played == 3 * [evaluation_seeds(finished_config, TASK, 3)]


def test_a_killed_evaluation_goes_on(finished_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = finished_config
    first = read_results(config.run_dir / "results.json")
    measured = killed_at(f"cloning {TASK}", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config=config).evaluate()
    assert measured == ["tokenizer", "dynamics", "dynamics before the agent", f"random {TASK}", f"cloning {TASK}"]
    measured.clear()
    second = Trainer(config=config).evaluate()
    assert measured == [f"cloning {TASK}", f"imagination {TASK}"]
    for name in ("tokenizer", "dynamics", "dynamics_before_agent", "success"):
        assert second[name] == first[name], name
    measured.clear()
    third = Trainer(config=config).evaluate()  # once complete, the next one measures anew
    assert len(measured) == 6 and third["success"] == second["success"]


def test_a_policy_added_later_is_all_that_is_played(finished_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = finished_config, finished_config.weights("imagination")
    path.rename(path.with_suffix(".later"))
    measured = killed_at("nothing", monkeypatch)
    first = Trainer(config=config).evaluate()
    path.with_suffix(".later").rename(path)
    measured.clear()
    second = Trainer(config=config).evaluate()
    assert measured == [f"imagination {TASK}"]
    assert second["success"]["cloning"] == first["success"]["cloning"] and "imagination" in second["against_cloning"]
    assert second["dynamics"] == first["dynamics"] and second["tokenizer"] == first["tokenizer"]


def test_a_setting_that_no_weight_shows_is_measured_anew(
    finished_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of passes of a dream (K) does not change the trained world model and cloned policy, bit for bit."""
    config = finished_config
    Trainer(config=config).evaluate()
    before = tensors_hash(load_dynamics(config.weights("dynamics"))[0].state_dict())
    for name in ("dynamics", "agent", "imagination"):
        config.weights(name).unlink()
    config = changed(config, "sampling", k_sample=4)
    measured = killed_at("nothing", monkeypatch)
    Trainer(config=config).run()
    assert tensors_hash(load_dynamics(config.weights("dynamics"))[0].state_dict()) == before
    assert "dynamics" in measured and f"cloning {TASK}" in measured


def test_plain_videos_beside_the_game_change_neither_words_nor_games(config: Config) -> None:
    """Plain videos may come first in the list: the agent's vocabulary is not theirs, and their task is not played."""
    game = open_datasets(config)[0].meta
    words = (*game.vocabulary[:2], "cobblestone", "log")
    writer = DatasetWriter(
        Path(config.data_dir) / "videos", Meta(("video",), game.actions, game.height, game.width, game.fps, words)
    )
    frames = np.random.default_rng(0).integers(0, 256, (9, game.height, game.width, 3), np.uint8)
    blank = {"rewards": np.zeros(9, np.float32), "is_terminal": np.zeros(9, bool), "success": False, "seed": 0}
    actions = np.zeros((9, len(game.actions.sizes)), np.int64)
    episode = Episode(frames, actions, task="video", label="", source="", noise=0.0, labelled=False, **blank)
    writer.write_shard("train", 0, [episode])  # too few to hold one out
    writer.finish()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=("videos", TASK)))
    Trainer(config=config).run()
    assert load_tensors(config.weights("agent"))[1]["vocabulary"] == list(game.vocabulary)
    results = read_results(config.run_dir / "results.json")
    assert set(results["success"]["cloning"]["tasks"]) == {TASK}
    other = dataclasses.replace(config, env=dataclasses.replace(config.env, tasks=("MiniGrid-Fetch-6x6-N2-v0",)))
    with pytest.raises(ValueError, match="no held-out episode of MiniGrid-Fetch-6x6-N2-v0"):
        evaluate_run(other, Any, "", None, {}, open_datasets(config), Any, Any)  # type: ignore[arg-type]


def test_parts_of_another_evaluation_or_model_are_not_used(tmp_path: Path) -> None:
    path, calls = tmp_path / "parts.json", []

    def part(of: str, model: str = "1") -> Any:
        parts = FinishedParts(path, of, {"a": model, "b": "1"})
        return parts.part("a", "x", lambda: calls.append(of + model) or len(calls)), parts.part("b", "x", lambda: 0)

    assert [part("one"), part("one"), part("two"), part("two")] == [(1, 0), (1, 0), (2, 0), (2, 0)]
    assert [part("two", "2"), part("two", "2")] == [(3, 0), (3, 0)]
    assert calls == ["one1", "two1", "two2"]


def test_the_world_is_measured_without_an_agent(finished_config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    config = finished_config
    first = read_results(config.run_dir / "results.json")["dynamics"]
    for name in ("agent", "imagination"):
        config.weights(name).unlink()
    results = Trainer(config=config).evaluate()
    assert set(results["dynamics"]) == set(first)
    assert results["dynamics"]["reward_precision"] is None and results["dynamics"]["reward_recall"] is None
    assert results["dynamics"]["copy_psnr_db"] == first["copy_psnr_db"]
    assert set(results["success"]) == {"random", "demonstrations"}
    said = capsys.readouterr().out
    for name in ("agent", "imagination"):
        assert f"{name} is not measured: train it first (`embody train {name}`)" in said
    Trainer(config=changed(config, "evaluation", context=2)).evaluate()  # two frames before the dream begins, not three
    with Image.open(config.run_dir / "pictures" / "dream.gif") as picture:
        assert picture.n_frames > 2
    config.weights("dynamics").unlink()
    assert "dynamics" not in Trainer(config=config).evaluate()


def test_a_stage_keeps_its_seconds_at_checkpoints(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, float]] = []
    seconds = lambda: json.loads((config.run_dir / "seconds.json").read_text())  # noqa: E731
    monkeypatch.setattr(
        "embody.run.trainings.save_tensors", lambda *rest: kept.append(seconds()) or save_tensors(*rest)
    )
    Trainer(config=config).train_tokenizer()
    assert kept[0]["tokenizer"] > 0  # before the stage ended: a killed one has them
    assert seconds()["tokenizer"] >= kept[0]["tokenizer"]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "fields", "differs"),
    [
        ("train_tokenizer", {"lr": 1e-3}, r"training\.lr was 0\.\d+, is now 0\.001"),
        ("tokenizer_objective", {"mask_max": 0.5}, r"objective\.tokenizer\.mask_max was 0\.\d, is now 0\.5"),
        ("tokenizer", {"context": 5}, r"models\.tokenizer\.context was \d, is now 5"),
    ],
)
def test_finished_weights_of_another_config_are_refused(
    finished_config: Config, stage: str, fields: dict[str, Any], differs: str
) -> None:
    config = changed(finished_config, stage, **fields)
    before = states(Path(config.models_dir)) | states(Path(config.data_dir)) | states(config.run_dir)
    with pytest.raises(ValueError, match=rf"models/tiny/tokenizer\.safetensors was trained .*\({differs}\)") as stop:
        Trainer(config=config).run()
    assert "\n" not in str(stop.value)
    after = states(Path(config.models_dir)) | states(Path(config.data_dir)) | states(config.run_dir)
    assert after == before


def test_other_data_is_refused(finished_config: Config) -> None:
    config = finished_config
    with pytest.raises(ValueError, match="collected with train_episodes 24, the config has 25"):
        Trainer(config=changed(config, "collect", train_episodes=25)).run()
    environments = dataclasses.replace(config.collect, seed=1)
    with pytest.raises(ValueError, match="collected with seed 0, the config has 1"):
        Trainer(config=dataclasses.replace(config, collect=environments)).run()
    assert json.loads((config.run_dir / "config.json").read_text())["collect"]["seed"] == 0


def test_a_refusal_leaves_the_config_of_the_run(config: Config) -> None:
    Trainer(config=config).train_tokenizer()
    path = config.run_dir / "config.json"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="unknown task 'Chess'"):
        Trainer(config=changed(config, "env", tasks=("Chess",))).collect()
    config.weights("tokenizer").unlink()
    shutil.move(config.finished_state("tokenizer"), config.checkpoint("tokenizer"))  # a checkpoint made otherwise
    with pytest.raises(ValueError, match=r"checkpoints/tokenizer\.safetensors was trained with other settings"):
        Trainer(config=changed(config, "train_tokenizer", length=3)).train_tokenizer()
    assert path.read_bytes() == before


def test_cloning_without_a_world_model(finished_config: Config) -> None:
    """The agent's losses train all layers that it reads; with a world model, they train none of the world's layers."""
    config, generator = finished_config, torch.Generator().manual_seed(0)
    trainer = Trainer(config=config)
    plain, cloned = trainer.train_agent(variant="no_world_model"), trainer.train_agent()
    assert not plain.agent.config.own_weights and not len(plain.agent.blocks)
    datasets = open_datasets(config)
    tokenizer_hash = tensors_hash(load_tokenizer(config.weights("tokenizer"))[0].state_dict())
    batch = next(iter(AgentStage(config, datasets, tokenizer_hash, plain.dynamics).batches(0)))
    for model, reached in ((plain, True), (cloned, False)):
        model.train().requires_grad_(True)
        model.zero_grad()
        features = model.features(batch, model.context_levels(batch), GeneratorNoise(generator))
        loss, _ = AgentLoss(config.agent_objective)(model.agent.heads, features, batch)
        loss.backward()
        gradients = [p.grad is not None and bool(p.grad.any()) for p in model.dynamics.trunk.blocks.parameters()]
        assert all(gradients) if reached else not any(gradients)
    # The world that was trained is not what it began with: not one of its matrices is the same.
    trained, _ = load_dynamics(config.weights("dynamics"))
    before, after = trained.state_dict(), plain.dynamics.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if before[name].dim() > 1)


def test_weights_from_before_a_setting_are_as_with_its_default(finished_config: Config) -> None:
    path = finished_config.weights("imagination")
    tensors, recipe = load_tensors(path)
    objective = recipe["objective"]
    del recipe["models"]["agent"]["event_channels"], recipe["training"]["ema"]
    del objective["agent"]["miss_share"], objective["imagination"]["margin"]
    save_tensors(path, tensors, recipe)
    before = states(path.parent)
    trainer = Trainer(config=finished_config)
    trainer.train_imagination()
    check_upstream(finished_config, "imagination")
    assert states(path.parent) == before
    other = changed(finished_config, "imagination", margin=0.1)
    with pytest.raises(ValueError, match=r"imagination\.safetensors was trained .* \(objective\.imagination\.margin "):
        Trainer(config=other).train_imagination()
    objective["imagination"]["optimism"] = 0.5
    save_tensors(path, tensors, recipe)
    with pytest.raises(ValueError, match=r"imagination\.safetensors was trained by another version .*'optimism'"):
        trainer.train_imagination()


def test_a_change_of_sampling_makes_nothing_stale(finished_config: Config) -> None:
    """Sampling settings of finished weights may change; architecture, objectives and training may not."""
    stale: dict[tuple[str, str, Any], set[str]] = {
        ("sampling", "k_sample", 4): set(),
        ("sampling", "support", 0.1): set(),
        ("imagination", "beta", 0.1): {"imagination"},
        ("train_imagination", "lr", 0.1): {"imagination"},
        ("imagination", "gamma", 0.5): {"agent", "imagination"},
        ("agent_objective", "policy_weight", 2.0): {"agent", "imagination"},
        ("dynamics_objective", "ramp", False): {"dynamics", "agent"},
        ("train_dynamics", "lr", 0.1): {"dynamics"},
        ("tokenizer_objective", "mask_max", 0.5): {"tokenizer"},
        ("tokenizer", "context", 5): {"tokenizer"},
        ("evaluation", "episodes", 4): set(),
    }
    for (group, field, value), expected in stale.items():
        config = changed(finished_config, group, **{field: value})
        assert getattr(getattr(finished_config, group), field) != value
        found = set()
        for name in ("tokenizer", "dynamics", "agent", "imagination"):
            try:
                check_upstream(config, name)
            except UserError as error:
                assert f".{field} was " in str(error)
                found.add(name)
        assert found == expected, (group, field)


def test_finished_weights_may_be_sampled_otherwise(
    finished_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = finished_config, finished_config.weights("imagination")
    before, weights = read_results(config.run_dir / "results.json"), states(path.parent)
    measured = killed_at("nothing", monkeypatch)
    trainer = Trainer(config=changed(config, "sampling", k_sample=4, support=0.5))
    trainer.train_imagination()
    trainer.evaluate()
    said = f"{path} was trained with sampling.k_sample 2 and sampling.support 0.0, this run samples with 4 and 0.5"
    assert capsys.readouterr().out.splitlines().count(said) == 2  # of what is finished, and of what is measured
    assert states(path.parent) == weights and load_tensors(path)[1]["sampling"]["k_sample"] == 2
    after = read_results(config.run_dir / "results.json")
    assert "dynamics" in measured and f"imagination {TASK}" in measured
    assert after["tokenizer"] == before["tokenizer"]
    assert after["dynamics"]["gain_over_copy_db"] != before["dynamics"]["gain_over_copy_db"]
    Trainer(config=config).train_imagination()
    assert "was trained with" not in capsys.readouterr().out


def test_half_done_imagination_is_not_gone_on_with_by_another_sampling(
    finished_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    config = finished_config
    config.weights("imagination").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("embody.run.trainings.save_tensors", killed)
        Trainer(config=config).train_imagination()
    with pytest.raises(UserError, match=r"checkpoints/imagination\.safetensors was trained with other settings"):
        Trainer(config=changed(config, "sampling", k_sample=4)).train_imagination()
    Trainer(config=config).train_imagination()
    assert config.weights("imagination").exists()


def test_a_run_on_another_runs_world(finished_config: Config) -> None:
    config = dataclasses.replace(finished_config, name="other", seed=7, world=finished_config.name)
    trainer = Trainer(config=config)
    trainer.run()
    models = Path(config.models_dir)
    made = sorted(path.name for path in (models / "other").iterdir())
    assert made == ["agent.safetensors", "imagination.safetensors"]
    upstream = [load_tensors(models / name / "agent.safetensors")[1]["upstream"] for name in ("other", "tiny")]
    assert upstream[0] == upstream[1]
    assert read_results(config.run_dir / "results.json")["seed"] == 7
    for train in (trainer.train_tokenizer, trainer.train_dynamics):
        with pytest.raises(ValueError, match="other takes its (tokenizer|dynamics) from run tiny: train it there"):
            train()
    with pytest.raises(
        ValueError, match=r"dynamics\.safetensors was trained .*\(training\.lr was .*\): use the settings of run tiny"
    ):
        Trainer(config=changed(config, "train_dynamics", lr=0.1)).train_agent()


def test_a_new_tokenizer_makes_what_follows_stale(finished_config: Config) -> None:
    config = finished_config
    config.weights("tokenizer").unlink()
    config = changed(config, "train_tokenizer", lr=1e-3)
    trainer = Trainer(config=config)
    trainer.train_tokenizer()
    with pytest.raises(ValueError, match=r"dynamics\.safetensors was trained .*\(upstream was .*, is now "):
        trainer.train_dynamics()
    config.weights("dynamics").unlink()
    with pytest.raises(ValueError, match="no latents of tokenizer .*: run `embody encode` first"):
        trainer.train_dynamics()
    trainer.encode()
    trainer.train_dynamics()
    for later in (trainer.train_agent, trainer.train_imagination, trainer.evaluate):
        with pytest.raises(ValueError, match=r"agent\.safetensors was .*\(upstream (was .*, is now |differs\))"):
            later()


def test_a_world_of_another_tokenizer_is_refused(finished_config: Config) -> None:
    config = finished_config
    for name in ("tokenizer", "agent", "imagination"):
        config.weights(name).unlink()
    trainer = Trainer(config=changed(config, "train_tokenizer", lr=1e-3))
    trainer.train_tokenizer()
    trainer.encode()
    for later in (trainer.train_agent, trainer.evaluate):
        with pytest.raises(ValueError, match=r"dynamics\.safetensors was trained from other .*\(upstream differs\)"):
            later()


def test_frames_of_another_size_are_refused(finished_config: Config) -> None:
    larger = dataclasses.replace(finished_config.env, height=56)
    config = dataclasses.replace(finished_config, env=larger, name="larger")
    dataset = open_datasets(finished_config)
    for refused in (lambda: Trainer(config=config).train_tokenizer(dataset), lambda: open_datasets(config)):
        with pytest.raises(
            ValueError, match=r"frames of \(48, 48\) pixels, the config of \(56, 48\): collect it again"
        ):
            refused()


def test_stages_out_of_order_say_what_is_missing(config: Config) -> None:
    trainer = Trainer(config=config)
    with pytest.raises(ValueError, match=r"no weights at .*tokenizer\.safetensors: run `embody train tokenizer`"):
        trainer.train_dynamics()
    with pytest.raises(ValueError, match=r"no weights at .*tokenizer\.safetensors"):
        trainer.evaluate()


# --- the seed's signature -------------------------------------------------------------------------------------------


def test_epochs_are_positional(config: Config) -> None:
    trainer = Trainer(0.1, 0.2, 0.3, config=config)
    stages = (trainer.config.train_tokenizer, trainer.config.train_dynamics, trainer.config.train_agent)
    assert [stage.epochs for stage in stages] == [0.1, 0.2, 0.3]
    assert Trainer(config=config).config == config
    auto = Trainer(config=dataclasses.replace(config, precision="auto")).config
    assert auto.precision in ("float32", "bfloat16")


def test_a_precision_is_not_chosen_by_the_machine_that_records(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = dataclasses.replace(config, precision="auto")
    first = dataclasses.replace(auto, data_dir=f"{config.data_dir}2", name="first")
    first = changed(first, "collect", train_episodes=1, validation_episodes=1)
    for recorder in (first, auto):  # of the second all is recorded; its settings are kept all the same
        Trainer(config=recorder).collect()
        kept = recorder.run_dir / "config.json"
        assert json.loads(kept.read_text())["precision"] == "auto"
        with pytest.raises(KeyboardInterrupt), record_stage(Trainer(config=recorder)._device_independent(), "collect"):
            raise KeyboardInterrupt
        assert json.loads(kept.read_text())["precision"] == "auto"  # an interrupted recording goes on
    played = lambda *_: json.loads((auto.run_dir / "config.json").read_text())["precision"]  # noqa: E731
    monkeypatch.setattr("embody.games.minecraft.play.evaluate_in_simulator", played)
    monkeypatch.setattr("embody.trainer.check_upstream", lambda *_: None)
    assert Trainer(config=auto).evaluate_in_simulator("minerl:MineRLObtainDiamond-v0", [], "random") == "auto"
    assert Trainer(config=auto).evaluate_in_simulator("minerl:MineRLObtainDiamond-v0", [], "cloning") != "auto"


def test_the_device_is_a_gpu_where_there_is_one(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for there, asked, expected in ((False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert Trainer(config=dataclasses.replace(config, device=asked)).device == torch.device(expected)
    auto = dataclasses.replace(config, device="auto", precision="auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert Trainer(config=auto).config.precision == "bfloat16"  # a GPU's
    assert Trainer(config=auto).config.device == "auto"  # the run may go on elsewhere
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda: torch sees no GPU"):
        Trainer(config=dataclasses.replace(config, device="cuda"))


# --- training on ----------------------------------------------------------------------------------------------------


def test_a_finished_stage_trains_on_from_its_end(finished_config: Config) -> None:
    """The optimisers' state is kept. Weights trained from the older ones are named, and no longer used."""
    config, path = finished_config, finished_config.weights("tokenizer")
    steps = load_tensors(config.finished_state("tokenizer"))[1]["steps"]
    older, _ = load_tensors(path)
    longer = changed(config, "train_tokenizer", steps=steps + 4)
    Trainer(config=longer).train_tokenizer()
    tensors, about = load_tensors(path)
    saved, progress = load_tensors(config.finished_state("tokenizer"))
    assert (progress["step"], progress["begin"]) == (steps + 4, steps)
    assert float(saved["optimizer0.0.step"]) == steps + 4
    assert any(not torch.equal(value, older[name]) for name, value in tensors.items())
    assert about["training"]["steps"] == steps + 4 and about["history"]["tokenizer"]["begin"] == steps
    log = "".join(path.read_text() for path in sorted(Path(config.logs_dir).glob("*.log")))
    stale = {name for name in STAGES if f"{config.weights(name)} is stale: it was trained from older" in log}
    assert stale == {name for name in STAGES if name != "tokenizer" and config.weights(name).exists()} != set()
    with pytest.raises(UserError, match=r"dynamics\.safetensors was trained .*upstream"):
        Trainer(config=longer).train_agent()
    before = path.read_bytes()
    Trainer(config=longer).train_tokenizer()  # is finished
    with pytest.raises(UserError, match=f"at step {steps + 4}, beyond the {steps} steps of the training"):
        Trainer(config=changed(longer, "train_tokenizer", steps=steps)).train_tokenizer()
    assert path.read_bytes() == before


def test_training_on_that_is_interrupted_goes_on(finished_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config, path = finished_config, finished_config.weights("dynamics")
    steps = load_tensors(config.finished_state("dynamics"))[1]["steps"]
    longer = changed(config, "train_dynamics", steps=steps + 4, checkpoint_every=1)
    older, kept = path.read_bytes(), config.finished_state("dynamics").read_bytes()
    Trainer(config=longer).train_dynamics()
    at_once, finished = path.read_bytes(), config.finished_state("dynamics").read_bytes()
    path.write_bytes(older)
    config.finished_state("dynamics").write_bytes(kept)
    loss, calls = DynamicsStage.loss, []

    def interrupted(self: DynamicsStage, *arguments: Any) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DynamicsStage, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config=longer).train_dynamics()
    assert load_tensors(config.checkpoint("dynamics"))[1]["step"] == steps + 2
    Trainer(config=longer).train_dynamics()
    assert path.read_bytes() == at_once and config.finished_state("dynamics").read_bytes() == finished


def test_without_its_optimisers_state_a_stage_is_not_trained_on(finished_config: Config) -> None:
    finished_config.finished_state("tokenizer").unlink()
    longer = changed(finished_config, "train_tokenizer", steps=1000)
    with pytest.raises(
        UserError, match=r"is missing; .* from these weights: --train-tokenizer.init-from .*safetensors"
    ):
        Trainer(config=longer).train_tokenizer()


@pytest.mark.parametrize("by", ["name", "path"])
def test_a_stage_begins_with_the_weights_of_another_run(finished_config: Config, by: str) -> None:
    other, _ = load_tensors(finished_config.weights("tokenizer"))
    source = finished_config.name if by == "name" else str(finished_config.weights("tokenizer"))
    config = dataclasses.replace(finished_config, name="other")
    still = {"lr": 0.0, "muon_lr": 0.0, "weight_decay": 0.0, "steps": 1, "init_from": source}
    Trainer(config=changed(config, "train_tokenizer", **still)).train_tokenizer()
    tensors, about = load_tensors(config.weights("tokenizer"))
    assert about["history"]["initial_weights"] == tensors_hash(other)
    trained = [name for name, _ in load_tokenizer(config.weights("tokenizer"))[0].named_parameters()]
    assert trained and all(torch.equal(tensors[name], other[name]) for name in trained)


def test_weights_to_begin_with_that_do_not_fit_are_refused(finished_config: Config) -> None:
    config = dataclasses.replace(finished_config, name="other")
    config = changed(config, "train_tokenizer", init_from=str(finished_config.weights("dynamics")))
    with pytest.raises(UserError, match=r"tiny/dynamics\.safetensors lacks"):
        Trainer(config=config).train_tokenizer()
    missing = changed(config, "train_tokenizer", init_from="nobody")
    with pytest.raises(UserError, match=r"no weights at .*nobody/tokenizer\.safetensors"):
        Trainer(config=missing).train_tokenizer()
