"""A whole run of Crafter, tiny: collected, trained, played under the scheduler, told of as one table."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from embody.config import Config, Goal
from embody.games import evaluation_seeds
from embody.games.crafter.presets import crafter_small
from embody.games.crafter.tasks import ACHIEVEMENTS
from embody.metrics.results_file import lookup, read_results
from embody.metrics.statistics import bootstrap, mean_rate
from embody.model import Agent, WorldAndAgent, load_world_and_agent
from embody.trainer import Trainer
from tests.conftest import killed_at, tiny_config

pytest.importorskip("crafter", reason="crafter is not installed")

STEPS, WORLDS, BATCH = 16, 3, 2


def tiny_crafter(root: Path, goal: Goal = "recorded") -> Config:
    preset, tiny = crafter_small(), tiny_config(root)
    return dataclasses.replace(
        tiny,
        preset="crafter_small",
        env=dataclasses.replace(preset.env, max_steps=(STEPS,)),
        collect=dataclasses.replace(preset.collect, train_episodes=4, validation_episodes=2, workers=1),
        tokenizer=dataclasses.replace(tiny.tokenizer, patch=16),
        agent=dataclasses.replace(tiny.agent, words=4, reward_range=(-1.0, 1.2), value_range=(-2.0, 20.0), goal=goal),
        train_tokenizer=dataclasses.replace(tiny.train_tokenizer, steps=2),
        train_dynamics=dataclasses.replace(tiny.train_dynamics, steps=2),
        train_agent=dataclasses.replace(tiny.train_agent, steps=2),
        train_imagination=dataclasses.replace(tiny.train_imagination, steps=2),
        evaluation=dataclasses.replace(tiny.evaluation, episodes=WORLDS, full_episodes=WORLDS, batch=BATCH),
        schedule=dataclasses.replace(preset.schedule, patience=6, every=3),
    )


@pytest.fixture(scope="module", params=["recorded", "one"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = tiny_crafter(tmp_path_factory.mktemp("crafter"), request.param)
    Trainer(config=config).run(command="embody run tiny")
    return config


def test_every_policy_is_counted_over_the_held_out_worlds(run: Config) -> None:
    results = read_results(run.run_dir / "results.json")
    first, last = lookup(results, "outcomes.seeds.crafter")
    assert list(range(first, last + 1)) == evaluation_seeds(run, "crafter", WORLDS)
    for policy in ("random", "cloning", "imagination"):
        achieved, found = results["outcomes"]["achieved"][policy], results["success"][policy]
        assert len(achieved) == 22 and all(len(bits) == WORLDS for bits in achieved.values())
        ones = sum(bits.count("1") for bits in achieved.values())
        assert found["return"]["mean"] == pytest.approx(ones / WORLDS)
        assert found["mean"] == pytest.approx(ones / WORLDS / 22) and found["episodes"] == WORLDS
        outcomes = np.array([[bit == "1" for bit in bits] for bits in achieved.values()]).T[None]
        estimate = bootstrap(outcomes, mean_rate)
        assert [found["low"], found["high"]] == pytest.approx([float(estimate.low), float(estimate.high)])
        assert 0 < found["length"] <= STEPS and 0 <= found["score"]["mean"] <= 100
        for name, bits in achieved.items():
            assert found["tasks"][name]["mean"] == pytest.approx(bits.count("1") / WORLDS)
    assert set(results["against_cloning"]) == {"random", "imagination"}
    rewards = results["dynamics"]["rewards_within"]["tasks"]
    assert set(rewards) == set(ACHIEVEMENTS) if run.agent.goal == "recorded" else set(rewards) <= set(ACHIEVEMENTS)


def test_the_outcome_models_are_trained_with_the_agent(run: Config) -> None:
    model, _ = load_world_and_agent(run.weights("agent"))
    if run.agent.goal == "one":
        assert model.events is None and model.risk is None
        return
    torch.manual_seed(run.seed + 2)
    agent = Agent(model.agent.config, model.agent.trunk, model.agent.heads.actions)
    begun = WorldAndAgent(model.dynamics, agent)  # as `AgentStage` begins it
    for found, first in ((model.events, begun.events), (model.risk, begun.risk)):
        assert found is not None and first is not None
        pairs = list(zip(found.parameters(), first.parameters(), strict=True))
        assert all(not torch.equal(mine, other) for mine, other in pairs)
        assert all((mine - other).abs().max() < 0.1 for mine, other in pairs)  # three steps from there


def test_the_page_has_a_row_an_achievement(run: Config) -> None:
    page = (run.run_dir / "results.md").read_text()
    for words in ("| collect_diamond |", "Crafter score", "achievements an episode", "steps an episode"):
        assert words in page, words
    html = (run.run_dir / "report.html").read_text()
    assert "collect_diamond" in html and "of 22 achievements" in html  # in the table, and over a film


def test_worlds_that_were_played_are_not_played_again(run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_results(run.run_dir / "results.json")
    played = killed_at("cloning worlds 2-2", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config=run).evaluate()
    assert played[-3:] == ["random worlds 2-2", "cloning worlds 0-1", "cloning worlds 2-2"]
    played.clear()
    after = Trainer(config=run).evaluate()
    assert played == ["cloning worlds 2-2", "imagination worlds 0-1", "imagination worlds 2-2"]
    assert after["outcomes"] == before["outcomes"] and after["success"] == before["success"]
