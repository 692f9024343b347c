"""The registry: games of this package, one that another package brings, and data without a game."""

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embody.cli.settings import base_config
from embody.config import ActionSpec, Config, DataConfig, EnvConfig, to_dict
from embody.errors import UserError
from embody.games import (
    Game,
    Simulator,
    game,
    games,
    make_env,
    preset,
    preset_names,
    registry,
    simulator,
    stored_config,
)
from embody.games.crafter.schedule import AchievementSchedule
from embody.games.minecraft.schedule import TaskSchedule
from embody.metrics.results_file import lookup, read_results
from embody.recording import collect
from embody.trainer import Trainer
from tests import tiny_game


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tiny game, as the entry point of a package."""
    point = importlib.metadata.EntryPoint("square", "tests.tiny_game:GAME", "embody.games")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    registry._games.cache_clear()
    yield
    registry._games.cache_clear()


def in_folder(config: Config, root: Path, **changes: object) -> Config:
    folders = {f"{kind}_dir": str(root / kind) for kind in ("data", "models", "runs", "logs")}
    return dataclasses.replace(config, **folders, **changes)  # type: ignore[arg-type]


def test_the_games_of_this_package() -> None:
    assert set(games()) >= {"crafter", "minecraft", "minigrid"}
    assert set(preset_names()) >= {"crafter", "crafter_small", "minecraft", "minecraft_small", "minigrid"}
    for one in games().values():
        for name, make in one.presets.items():
            config = make()
            assert config.preset == name and game(config.env.game) is one
            assert one.actions in (None, config.env.actions)
        sizes = (one.actions or next(iter(one.presets.values()))().env.actions).sizes
        assert one.keys and all(choice < sizes[factor] for factor, choice in one.keys.values())
    with pytest.raises(UserError, match=f"unknown game 'chess': choose one of {', '.join(games())}, none"):
        make_env(EnvConfig("chess"), "mate")
    with pytest.raises(UserError, match=f"unknown preset 'chess': choose one of {', '.join(preset_names())}"):
        preset("chess")


def test_a_game_says_its_actions_by_their_names_or_not_at_all() -> None:
    assert Game("a", action_names=(("up", "down", "wait"), ("run", "walk"))).actions == ActionSpec((3, 2))
    assert Game("a").actions is None and game("minecraft").actions is None
    assert (game("minigrid").actions, game("crafter").actions) == (ActionSpec((7,)), ActionSpec((17,)))


def test_what_is_not_played_is_not_imported() -> None:
    heavy = ("crafter", "minigrid", "minerl", "gym")
    program = f"import sys, embody.games.registry; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_a_trainer_imports_no_game() -> None:
    program = "import sys, embody.trainer, pkgutil, embody.games as g; names = [m.name for m in"
    program += " pkgutil.iter_modules(g.__path__, 'embody.games.') if m.ispkg]; assert len(names) == 3;"
    program += " print(*[name for name in names if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


@pytest.mark.parametrize("name", ["minigrid", "crafter_small", "minecraft_small"])
def test_stored_configs_have_the_games_own_schedule(name: str) -> None:
    config = preset(name)
    if isinstance(config.schedule, AchievementSchedule):
        config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, patience=7))
    if isinstance(config.schedule, TaskSchedule):
        config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, episode_steps=7))
    assert stored_config(json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(UserError, match="Config.schedule: unknown field 'luck'"):
        stored_config(to_dict(config) | {"schedule": {"luck": 1}})


def test_two_games_of_one_name(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (point,) = registry.entry_points(group="embody.games")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, point])
    with pytest.raises(UserError, match="two games are called 'square'"):
        games()


def test_a_simulator_says_the_preset_that_it_begins_with(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its game is called."""
    far = Simulator(lambda *_: {}, preset="crafter_small")
    monkeypatch.setattr(tiny_game, "GAME", dataclasses.replace(tiny_game.GAME, simulators={"far": far}))
    assert simulator("far:there") == (far, "there")
    assert base_config(["evaluate", "--env", "far:there"]).preset == "crafter_small"
    assert base_config(["evaluate", "square", "--env", "far:there"]).preset == "square"


def test_a_game_of_another_package_runs_whole(installed: None, tmp_path: Path) -> None:
    assert game("square") is tiny_game.GAME
    config = in_folder(preset("square"), tmp_path)
    Trainer(config=config).run(command="embody run square")
    results = read_results(config.run_dir / "results.json")
    assert results["game"] == "square"
    for policy in ("random", "cloning", "imagination"):
        assert lookup(results, f"success.{policy}.tasks.go")["episodes"] == 4
    assert lookup(results, "success.demonstrations.by_noise")["0"]["mean"] == 1.0  # the walker always arrives
    assert 0 <= results["tokenizer"]["white_share"] <= 1 and len(results["dynamics"]["horizon"]["white_share"]) == 4
    assert set(results["dynamics_before_agent"]) == {"psnr_db", "gain_over_copy_db", "ssim", "frechet", "white_share"}
    report = (config.run_dir / "report.html").read_text(encoding="utf-8")
    assert "White pixels" in report and "Cells right" not in report
    assert "| White |" in (config.run_dir / "results.md").read_text(encoding="utf-8")


def without_a_game(config: Config) -> Config:
    return dataclasses.replace(config, name="data", env=dataclasses.replace(config.env, game="none"))


def test_data_without_a_game(installed: None, tmp_path: Path) -> None:
    """It goes through a whole run, and is evaluated by reconstructions and rollouts only."""
    played = in_folder(preset("square"), tmp_path)
    collect(played)
    config = without_a_game(played)
    Trainer(config=config).run()
    results = read_results(config.run_dir / "results.json")
    assert results["tokenizer"]["psnr_db"] > 0 and len(results["dynamics"]["horizon"]["psnr_db"]) == 4
    assert not {"success", "outcomes", "against_cloning"} & set(results) and "white_share" not in results["tokenizer"]
    assert "No policy was evaluated" in (config.run_dir / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_collected(installed: None, tmp_path: Path) -> None:
    """A command to collect says so, where datasets are missing; a run asks for the datasets instead."""
    played = in_folder(preset("square"), tmp_path)
    data = without_a_game(played)
    with pytest.raises(UserError, match="env.game none has no environment, so nothing can be collected"):
        Trainer(config=data).collect()
    with pytest.raises(UserError, match="env.tasks is empty"):
        collect(dataclasses.replace(data, env=dataclasses.replace(data.env, tasks=(), max_steps=())))
    named = dataclasses.replace(played, data=DataConfig(("elsewhere",)))
    for config, missing in ((data, "data/go"), (named, "data/elsewhere")):
        with pytest.raises(UserError, match=f"no dataset in .*{missing}: run `embody collect` or `embody import`"):
            Trainer(config=config).run()
    assert not Path(played.data_dir).exists()
    collect(played)
    assert [dataset.meta.tasks for dataset in Trainer(config=data).collect()] == [("go",)]  # nobody plays for it
