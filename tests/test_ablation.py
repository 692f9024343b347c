"""The cascade: one change for each row, one training for rows that differ in K only, and resuming."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from embody.cli import main
from embody.config import Config, to_dict
from embody.evaluation import cascade as ablation
from embody.evaluation.cascade import Row, cascade, frames_per_second
from embody.games.minigrid.presets import minigrid
from tests.conftest import tiny_config
from tests.tiny_models import CONFIG, DYNAMICS, FLOW, make_actions, make_dynamics, seeded

COMMAND = ["ablate", "--name", "tiny", "--steps", "2", "--seeds"]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    parts = [flat(v, f"{k}.") if isinstance(v, dict) else {k: v} for k, v in values.items()]
    return {prefix + key: value for part in parts for key, value in part.items()}


def settings(row: Row) -> dict[str, Any]:
    return flat(to_dict(row.config))


def results(config: Config) -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads((config.run_dir / "ablation.json").read_text())["results"]


def untimed(found: dict[str, dict[str, dict[str, Any]]]) -> list[Any]:
    """The results without the times."""
    clocks = ("step_seconds", "frames_per_second")
    return [
        (row, seed, {name: value for name, value in values.items() if name not in clocks})
        for row in sorted(found)
        for seed, values in sorted(found[row].items())
    ]


@pytest.fixture
def run(finished_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The tiny run, complete, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (finished_config.run_dir / "config.json").write_text(json.dumps(to_dict(finished_config)))
    return finished_config


def test_each_row_changes_one_thing() -> None:
    rows = cascade(minigrid())
    changes = []
    for before, after in zip(rows, rows[1:], strict=False):
        old, new = settings(before), settings(after)
        changes.append({name: (old[name], new[name]) for name in old if old[name] != new[name]})
    lengths = {"batch": (6, 48), "length": (16, 2), "long_length": (0, 16)}
    assert changes == [
        {"sampling.k_sample": (64, 4)},
        {"dynamics_objective.bootstrap_fraction": (0.0, 0.2)},
        {"dynamics.predict": ("v", "x")},
        {"dynamics_objective.loss_space": ("v", "x")},
        {"dynamics_objective.ramp": (False, True)},
        {f"train_dynamics.{name}": change for name, change in lengths.items()},
        {"dynamics.trunk.pattern": ("ST", "STSS")},
        {"dynamics.trunk.kv_heads": (4, 2)},
        {"dynamics.registers": (0, 8)},
    ]
    full = minigrid()
    ramp = dataclasses.replace(full.dynamics_objective, ramp=True)
    sampling = dataclasses.replace(full.sampling, k_sample=4)
    assert rows[-1].config == dataclasses.replace(full, dynamics_objective=ramp, sampling=sampling)
    served = [row.training for row in rows]
    assert served[0] == served[1] and len(set(served)) == 9


def test_the_first_rows_have_no_bootstrap_whatever_the_run_has() -> None:
    config = minigrid()
    objective = dataclasses.replace(config.dynamics_objective, step_draw="uniform")
    objectives = [
        row.config.dynamics_objective for row in cascade(dataclasses.replace(config, dynamics_objective=objective))
    ]
    drawn = [(objective.step_draw, objective.bootstrap_fraction) for objective in objectives]
    assert drawn == [("partial", 0.0)] * 2 + [("uniform", 0.2)] * 8


def test_a_generated_frame_is_timed_with_all_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one second a pass, a frame takes K seconds; the context is full."""
    dynamics, clock, lengths = make_dynamics(), [0.0], []
    dynamics.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
    dynamics.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[:2]))
    monkeypatch.setattr(ablation.time, "perf_counter", lambda: clock[0])
    assert frames_per_second(dynamics, k_sample=4) == pytest.approx(1 / 4)
    one, two = (1, 1), (1, 2)
    assert lengths[0] == (1, DYNAMICS.context) and lengths[1:5] == [one] * 4  # there is nothing to keep: not timed
    assert lengths[5:] == [two, one, one, one] * ablation._TIMED


@torch.no_grad()
def test_a_model_without_bootstrap_takes_coarse_steps_as_it_was_trained() -> None:
    trained = make_dynamics()
    z, actions = torch.randn(1, 3, 2, 8, generator=seeded(0)), make_actions(1, 3)
    tau, no = torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool)

    def clean(fraction: float, d: float) -> torch.Tensor:
        objective = dataclasses.replace(FLOW, bootstrap_fraction=fraction)
        row = Row("", dataclasses.replace(CONFIG, dynamics_objective=objective), ("", "", ""))
        dynamics = ablation._with_weights_of(trained, row)
        return dynamics(z, tau, torch.full((1, 3), d), actions, no).clean

    finest = trained(z, tau, torch.full((1, 3), 1 / 8), actions, no).clean
    assert torch.equal(clean(0.0, 1 / 4), finest) and torch.equal(clean(0.0, 1 / 8), finest)
    assert not torch.equal(clean(0.25, 1 / 4), finest) and torch.equal(clean(0.25, 1 / 8), finest)


def test_the_whole_cascade_is_interrupted_and_goes_on(
    run: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.run_dir.rglob("*") if path.is_file()}
    train, trained = ablation.train, list[str]()

    def interrupted(stage: Any, **arguments: Any) -> None:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(stage.name)
        train(stage, **arguments)

    monkeypatch.setattr(ablation, "train", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, "2"])
    names = [row.name for row in cascade(run)]
    assert stop.value.code == 130 and trained == [f"{names[i]}, seed 0" for i in (0, 2, 3)]
    first = results(run)
    assert list(first) == names[:4]

    def counted(stage: Any, **arguments: Any) -> None:
        assert stage.name.endswith(f", seed {arguments['seed']}") and stage.run_config.seed == arguments["seed"]
        trained.append(stage.name)
        train(stage, **arguments)

    monkeypatch.setattr(ablation, "train", counted)
    main([*COMMAND, "2"])
    assert len(trained) == len(set(trained)) == 2 * len({row.training for row in cascade(run)})
    found = results(run)
    assert list(found) == names and all(list(seeds) == ["0", "1"] for seeds in found.values())
    assert {row: found[row]["0"] for row in first} == {row: seeds["0"] for row, seeds in first.items()}
    table = (run.run_dir / "cascade.md").read_text()
    assert "embody ablate --name tiny --steps 2 --seeds 2" in table and table in capsys.readouterr().out
    # All is done: the same command trains nothing, and the table stays as it was.
    monkeypatch.setattr(ablation, "train", None)
    main([*COMMAND, "2"])
    assert (run.run_dir / "cascade.md").read_text() == table and results(run) == found
    # The run's own files are as they were.
    assert {path: path.read_bytes() for path in before} == before
    # An uninterrupted cascade gives the same numbers.
    monkeypatch.setattr(ablation, "train", train)
    (run.run_dir / "ablation.json").unlink()
    main([*COMMAND, "1"])
    assert untimed(results(run)) == untimed({row: {"0": seeds["0"]} for row, seeds in found.items()})
    # Seeds and trainings differ in what they give; K alone does too.
    gains = [found[name][seed]["gain_over_copy_db"] for name in (names[0], *names[1:3]) for seed in ("0", "1")]
    assert None not in gains and len(set(gains)) == 6


@pytest.mark.parametrize(("row", "shown"), [(0, "| 3.0 dB (2.0 to 4.0) |"), (1, "| 5.0 dB |"), (2, "| - |")])
def test_the_table_by_hand(row: int, shown: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    rows = cascade(config)
    kept = ablation._FinishedRows(tmp_path / "ablation.json", {"steps": 7, "evaluation": {"context": 4}})
    rest = {"copy_psnr_db": 1.0, "rollouts": 3, "step_seconds": 0.5, "frames_per_second": 20.0}
    for number, seed, gain in ((0, 0, 2.0), (0, 1, 4.0), (1, 0, 5.0), (1, 1, None)):
        found = {"psnr_db": 30.0, "gain_over_copy_db": gain, "changed_cell_accuracy_h10": 0.25}
        kept.add(rows[number], seed, found | rest, {"command": "embody ablate", "machine": "abacus", "date": "today"})
    ablation._write_table(tmp_path / "cascade.md", rows, kept)
    lines = (tmp_path / "cascade.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"| {rows[row].name} |"))
    assert "| changed cells right at h 10 | step |" in "\n".join(lines)
    assert shown in line and line.count("|") == 10
    if row == 0:
        assert line.endswith("| 25% (25 to 25) | 0.50 s (0.50 to 0.50) | 20.0 (20.0 to 20.0) | 9.8 s | 0.8 | 306 |")


def test_what_cannot_be_compared_is_refused(run: Config, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["ablate", "--name", "tiny", *options])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    path = run.run_dir / "ablation.json"
    assert "steps (0) and seeds (2) must be at least 1" in refused("--steps", "0")
    path.write_text(json.dumps({"made": {}, "results": {}, "settings": {"steps": 3}}))
    assert "ablation.json was made with other settings (steps differs): delete it" in refused("--steps", "2")
    path.write_text("{")
    assert "ablation.json is damaged" in refused("--steps", "2")
    path.unlink()
    latents = next(Path(run.data_dir).glob("*/latents/*"))
    latents.rename(latents.with_name("other"))
    assert "run `embody encode` first" in refused("--steps", "2")
    run.weights("tokenizer").unlink()
    assert "no weights at" in refused("--steps", "2")
    assert not path.exists()
