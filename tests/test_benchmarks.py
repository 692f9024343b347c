"""The harness of benchmarks/, without the peer and without the network."""

import dataclasses
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu, loader, machine, ours, peer_environment, precision, run, session
from benchmarks.measure import Unit, counts
from benchmarks.roofline import bandwidth, best, matrix_rate
from benchmarks.table import markdown, mfu
from benchmarks.worker import timed
from benchmarks.workloads import FULL, TINY, WORKLOADS, chosen
from embody.dynamics import Dynamics
from embody.evaluation.held_out import dream_held_out

# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["W1", "W2", "W2-quarter"])
def test_formulas_count_what_torch_counts_at_full_size(name: str) -> None:
    unit = ours.build(WORKLOADS[name], "float32", FULL)
    assert unit.flops == pytest.approx(counts(unit)["flops_counted"], rel=1e-3)


@pytest.mark.parametrize("name", ["W2-bootstrap", "W2-T16", "W2-T128", "W3", "W3-64", "W4"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_formulas_count_what_torch_counts(name: str, precision: Any) -> None:
    unit = ours.build(WORKLOADS[name], precision, TINY)
    assert unit.flops == pytest.approx(counts(unit)["flops_counted"], rel=0.01)


def test_shapes_are_those_of_the_comparison() -> None:
    assert (FULL.tokens, FULL.width // FULL.head) == (24, 4)
    video, world, session, dream = (WORKLOADS[name] for name in ("W1", "W2", "W3", "W4"))
    assert (video.frames(FULL), world.frames(FULL), session.frames(FULL), dream.frames(FULL)) == (32, 128, 64, 240)
    config = ours.config_of(world, FULL)
    assert config.dynamics.trunk.layers == 2 * "SSST" and config.tokenizer.encoder.layers == "SSST"
    imagination = ours.config_of(dream, FULL).imagination
    assert (imagination.context, imagination.horizon) == (dream.length, FULL.horizon)


def test_what_a_session_shows_is_its_frames() -> None:
    unit = ours.build(WORKLOADS["W3"], "float32", TINY)
    unit.prepare()
    assert unit.run().shape == (1, TINY.frames, 3, TINY.side, TINY.side)


def test_acting_times_each_answer() -> None:
    unit = ours.build(WORKLOADS["W5"], "bfloat16", TINY)
    unit.prepare()
    assert unit.run().shape == (1, 1) and unit.latencies is not None
    assert len(unit.latencies) == TINY.frames and min(unit.latencies) > 0
    # The session's first action comes by the policy's head alone.
    assert unit.flops == pytest.approx(counts(unit)["flops_counted"], rel=0.02)


@pytest.mark.slow  # what is compiled, on tiny shapes
@pytest.mark.parametrize("name", ["W2", "W3", "W4", "W5"])
def test_what_is_compiled_runs(name: str) -> None:
    unit = ours.build(WORKLOADS[name], "bfloat16", TINY, compiled=True)
    for _ in range(2):
        unit.prepare()
        assert unit.run().isfinite().all()


def test_counts_of_a_product() -> None:
    model, x = nn.Linear(3, 5, bias=False), torch.ones(2, 3)
    prepared: list[int] = []
    unit = Unit(lambda: torch.relu(model(x)), (model, nn.Linear(7, 7)), prepare=lambda: prepared.append(1))
    with torch.no_grad():
        found = counts(unit)
    # Transpose, product and relu; the other model's parameters were not read.
    assert found == {"calls": 3, "parameters": 15, "flops_counted": 2 * 2 * 3 * 5} and len(prepared) == 2


def test_only_running_is_timed_and_results_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def work(seconds: float, result: float = 0.0) -> torch.Tensor:
        clock[0] += seconds
        return torch.tensor(result)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert timed(Unit(lambda: work(2.0), (), prepare=lambda: None if work(30.0) is None else None)) == 2.0
    with pytest.raises(RuntimeError, match="not finite"):
        timed(Unit(lambda: work(1.0, float("nan")), ()))


# --- roofline ---------------------------------------------------------------------------------------------------------


def test_the_best_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, durations = [0.0], iter([9.0, 3.0, 1.0, 2.0])

    def work() -> None:
        clock[0] += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert best(work, seconds=0.0) == 1.0  # the first is a warm-up


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.roofline.best", lambda work, seconds, *device: work() is not None and 0.5)
    rates = matrix_rate(torch.bfloat16, (8, 16), 2.0)
    assert rates == {"8": 2 * 8**3 / 0.5, "16": 2 * 16**3 / 0.5, "best": 2 * 16**3 / 0.5}
    assert list(matrix_rate(torch.bfloat16, (8, 16), 1.0)) == ["8", "best"]  # 16 should take 4 seconds
    assert bandwidth(100, 0.0) == {"bytes": 400, "copy": 1600, "triad": 2400}


# --- the run ----------------------------------------------------------------------------------------------------------


class Fake:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def run(self) -> float:
        self.calls.append(self.name)
        return float(len(self.calls))


def test_sides_take_turns() -> None:
    calls: list[str] = []
    seconds = run.interleave({name: Fake(name, calls) for name in ("embody", "peer")}, rounds=3)
    assert calls == ["embody", "peer"] * 3
    assert seconds == {"embody": [1.0, 3.0, 5.0], "peer": [2.0, 4.0, 6.0]}


def test_workloads_by_name_and_family() -> None:
    assert [w.name for w in chosen(["W4", "W3"])] == ["W4", "W3", "W3-32", "W3-64", "W3-128"]
    assert [w.name for w in chosen(["W2-T16"])] == ["W2-T16"] and len(chosen([])) == len(WORKLOADS)
    with pytest.raises(ValueError, match="--workloads W9: choose among W1, W2"):
        chosen(["W9"])


def test_everyone_has_the_same_threads_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "PYTHONPATH"):
        monkeypatch.setenv(name, "9")
    found = run.environment(3, "passive")
    assert found["OMP_NUM_THREADS"] == "3" and found["OMP_WAIT_POLICY"] == "passive" and "PATH" in found
    assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "PYTHONPATH"} & set(found)


def test_a_worker_that_ends_says_which() -> None:
    with pytest.raises(RuntimeError, match="peer W1 float32 ended with code 1"):
        run.Worker("peer", WORKLOADS["W1"], "float32", Path("/bin/false"), {}, tiny=True)


def test_from_the_command_to_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--workloads", "W1", "W2-T16", "--precisions", "float32", "--sides", "embody", "--rounds", "2"]
    words += ["--threads", "1", "--tiny", "--results", str(tmp_path)]
    path = run.main(words)
    results = json.loads(path.read_text())
    assert [entry["name"] for entry in results["workloads"]] == ["W1", "W2-T16"]
    for entry in results["workloads"]:
        side = entry["sides"]["embody"]
        assert set(entry["sides"]) == {"embody"} and len(side["seconds"]) == 2 and min(side["seconds"]) > 0
        assert side["flops"] == pytest.approx(side["flops_counted"], rel=0.01) and side["calls"] > 100
        assert 2**26 < side["peak_bytes"] < 2**31 and side["threads"] == 1 and side["parameters"] > 10_000
    assert results["settings"]["wait_policy"] == "default" and results["settings"]["torch"] == torch.__version__
    assert results["roofline"]["bfloat16"]["best"] > 0 and "--tiny" in results["command"]
    assert capsys.readouterr().out.strip() == markdown(results)
    assert platform.node() not in path.name and (platform.node() or "?") not in path.read_text()


def test_no_round_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.arguments(["--rounds", "0"])
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err


def test_results_of_one_day_stay_side_by_side(tmp_path: Path) -> None:
    results = {"date": "2026-01-02", "machine": {"processor": "Big(R) X-9 CPU @ 2GHz", "cores": 2, "instructions": []}}
    names = [run.save(results, tmp_path / "new").name for _ in range(3)]
    stem = "big-x-9-2cores-2026-01-02"
    assert names == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]


def test_the_higher_of_two_rooflines() -> None:
    one, other = {"a": {"x": 1.0, "y": 5.0}, "b": 2.0}, {"a": {"x": 3.0, "y": 4.0}, "b": 1.0}
    assert run.higher(one, other) == {"a": {"x": 3.0, "y": 5.0}, "b": 2.0}


def test_the_machine_is_told_without_its_name() -> None:
    told = machine.describe()
    assert platform.node() not in json.dumps(told) and told["cores"]
    assert re.fullmatch(r"[a-z0-9-]+", machine.slug(told))


# --- the table --------------------------------------------------------------------------------------------------------


def side(seconds: list[float], **values: Any) -> dict[str, Any]:
    return {"seconds": seconds, "flops": None, "flops_counted": 4e9, "calls": 120, "peak_bytes": 2**29, **values}


def test_the_table_by_hand() -> None:
    mine, theirs = side([0.5, 0.1, 0.2], flops=2e9), side([0.4, 0.8, 0.3])
    assert mfu(mine, 1e11) == pytest.approx(0.1) and mfu(theirs, 1e11) == pytest.approx(0.1)
    entry = {"name": "W9", "title": "nine", "precision": "float32", "generates": True, "frames": 4}
    answers = {**mine, "latencies": [0.001 * ms for ms in range(1, 22)]}
    step = {**entry, "generates": False, "precision": "bfloat16", "sides": {"embody": answers}}
    fast = {key: value for key, value in side([0.1], flops=2e9).items() if key != "calls"}
    rate = {"best": 1e11}
    results = {
        "date": "2026-01-02",
        "commit": "abc",
        "command": "make bench",
        "machine": {
            "processor": "Big",
            "cores": 2,
            "instructions": ["avx2"],
            "memory_gib": 8,
            "system": "Linux",
            "load_before": 0.1,
        },
        "settings": {"threads": 2, "wait_policy": "passive", "torch": "2", "peer": "dreamer4==1", "rounds": 3},
        "roofline": {"float32": rate, "bfloat16": {"best": 2e11}, "bandwidth": {"copy": 1e10, "triad": 2e10}},
        "workloads": [{**entry, "sides": {"embody": mine, "compiled": fast, "peer": theirs}}, step],
    }
    text = markdown(results)
    assert "OMP_WAIT_POLICY=passive" in text and "100 GFLOP/s in float32, 200 in bfloat16" in text
    rows = text.splitlines()[-2:]
    generated = "20.0 /s (40.0) | 40.0 /s (40.0) | 10.0 /s (13.3) | 2.00x | 4.00x | 10% / 20% / 10% | 30 / - / 30"
    assert rows[0] == f"| W9 nine | float32 | {generated} | 0.5 / 0.5 / 1.0 | 0.50 / 0.50 / 0.50 |  /  /  |"
    assert rows[1] == "| W9 nine | bfloat16 | 0.200 s (0.100) |  |  |  |  | 5% | 120 | 2.0 | 0.50 | 11.0, 20.0 |"


# --- the peer's environment -------------------------------------------------------------------------------------------


def test_the_peers_torch_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], check: bool) -> None:
        assert check
        commands.append(command)
        (tmp_path / "peer").mkdir(exist_ok=True)

    monkeypatch.setattr(subprocess, "run", note)
    python = peer_environment.peer_python(tmp_path / "peer", "https://index")
    torch_pin = peer_environment.torch_pin()
    assert torch_pin == f"torch=={torch.__version__.split('+')[0]}"
    venv, first, rest = commands
    assert venv[1:3] == ["-m", "venv"] and first[-3:] == ["--index-url", "https://index", torch_pin]
    assert "-c" in rest and (tmp_path / "peer" / "constraints.txt").read_text().strip() == torch_pin
    # No second time, until the pins change.
    assert peer_environment.peer_python(tmp_path / "peer") == python and len(commands) == 3
    monkeypatch.setattr(peer_environment, "torch_pin", lambda: "torch==9")
    peer_environment.peer_python(tmp_path / "peer")
    assert len(commands) == 6


def test_the_peers_pins_leave_torch_out() -> None:
    pins = peer_environment.PINS.read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert peer_environment.peer_pin() in pins and not any(pin.startswith("torch==") for pin in pins)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def test_the_gpu_benchmark_runs_tiny_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(gpu.main(["--tiny", "--results", str(tmp_path)]).read_text())
    names = ["interactive", "acting", "dynamics step", "tokenizer step", "imagination"]
    assert [(row["preset"], row["name"]) for row in results["rows"]] == [
        (preset, name) for preset in ("minecraft", "crafter") for name in names
    ]
    assert all(row["frames_per_second"] > 0 and row["flops"] > 0 for row in results["rows"])
    table = capsys.readouterr().out
    assert "75 frames/s" in table and table.count("| minecraft |") == 5
    for row in results["rows"]:
        assert ("p95" in row) == (row["name"] == "acting") and row.get("p95", row["best"]) >= row["best"]


@pytest.mark.parametrize("preset", ["minecraft", "crafter"])
@pytest.mark.parametrize("name", gpu.ROWS)
def test_rates_on_a_gpu_are_of_what_is_computed(preset: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every piece of work takes two seconds, and its products are counted (recomputed ones are not in the formulas).
    config, now, counted = gpu._configs(True)[preset], [0.0], []
    shares = dataclasses.replace(config.dynamics_objective, image_fraction=0.25, bootstrap_fraction=0.25)
    sizes = dataclasses.replace(gpu.SMALL, dynamics=(4, 3), tokenizer=(2, 2), dreams=3, frames=2)
    config = dataclasses.replace(config, dynamics_objective=shares, recompute=False)
    bench = gpu.Bench(config, sizes, torch.device("cpu"), compiled=False)
    timed = bench._time

    def watched(work: Any, times: int, warm_up: int = 0) -> list[float]:
        def twice() -> None:
            counted.append(counts(Unit(lambda: work() or torch.zeros(()), ()))["flops_counted"])
            now[0] += 2.0

        for _ in range(warm_up):
            work()
        return timed(twice, times)

    monkeypatch.setattr(bench, "_time", watched)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    found = gpu.measured(bench, name)
    frames = {"dynamics step": 12, "tokenizer step": 4, "imagination": 3 * config.imagination.horizon}
    assert found["frames_per_second"] == pytest.approx(frames.get(name, 1) / 2)
    assert found["seconds"] == 2.0 and found.get("p95", 2.0) == 2.0
    assert found["flops"] == pytest.approx(counted[-1], rel=0.02)


def test_rows_that_no_longer_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(bench: Any, name: str) -> dict[str, Any]:
        now[0] += 100 if name == "acting" else 60
        return {"name": name}

    monkeypatch.setattr(gpu, "measured", slow)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    found = gpu.rows({"minecraft": None, "crafter": None})  # type: ignore[dict-item]
    assert [row["name"] for row in found] == 2 * list(gpu.ROWS) and now[0] == 400
    left_out = [(row["preset"], row["name"], row["error"]) for row in found if "error" in row]
    assert left_out == [("crafter", name, "left out: 80 s left, a row took 100 s") for name in gpu.ROWS[1:]]


def test_what_does_not_fit_is_said_and_the_rest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    config = gpu._configs(True)["crafter"]
    bench = gpu.Bench(config, gpu.SMALL, torch.device("cpu"), compiled=False)

    def too_much() -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore of it.")

    monkeypatch.setattr(bench, "dynamics", too_much)
    assert gpu.measured(bench, "dynamics step") == {"name": "dynamics step", "error": "CUDA out of memory."}
    assert gpu.measured(bench, "tokenizer step")["frames_per_second"] > 0


# --- fewer bits ------------------------------------------------------------------------------------------------------


def test_precisions_are_compared_on_a_trained_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(*inputs: Any) -> Any:
        seen.append(dream_held_out(*inputs))
        return seen[-1]

    monkeypatch.setattr(precision, "dream_held_out", watched)
    path = precision.main(["--run", str(finished / "runs" / "tiny"), "--results", str(tmp_path)])
    found = json.loads(path.read_text())["found"]
    assert path.name.startswith("precision-") and list(found) == list(precision.PRECISIONS)
    exact = seen[0].rollouts
    for values, dreams in zip(found.values(), seen, strict=True):
        r = dreams.rollouts
        assert r.imagined.shape[1] == 10 and np.array_equal(r.real, exact.real)
        for name, other in (("psnr_db", r.real), ("psnr_to_float32_db", exact.imagined)):
            error = np.mean(np.square(r.imagined / 255 - other / 255), axis=(2, 3, 4))[r.valid].mean()
            assert values[name] == (pytest.approx(-10 * np.log10(error)) if error else None)
    apart = [values["psnr_to_float32_db"] for values in found.values()]
    assert apart[0] is None and None not in apart[1:]
    assert "| float32 |" in (table := capsys.readouterr().out) and table.count(" dB") == 7 and "| equal |" in table


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions_of_any_length_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = session.main(["--tiny", "--rounds", "1", "--threads", "1", "--results", str(tmp_path)])
    assert path.name.startswith("session-")
    found = json.loads(path.read_text())["seconds_a_frame"]
    assert len(found) == 2 and all(set(times) == {"10", "100", "1000", "10000"} for times in found.values())
    assert "furthest apart" in capsys.readouterr().out


def test_a_session_stands_where_it_is_moved_to() -> None:
    config = ours.config_of(WORKLOADS["W3"], TINY)
    dream = session.session(Dynamics(config.dynamics, config.env.actions), 1_000, passes=2)
    assert session.block(dream, 1_000) > 0
    assert dream.world_cache is not None and dream.world_cache.frames == 1_000 + session.BLOCK
    session.move_to(dream, 10)
    assert dream.world_cache.frames == 10 and not dream.world_cache.full


# --- loading ----------------------------------------------------------------------------------------------------------


def test_loading_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(loader.main(["--tiny", "--results", str(tmp_path)]).read_text())
    assert [(row["size"], row["kind"]) for row in results["videos"]] == [
        (size, kind) for size in ([64, 64], [360, 640]) for kind in ("as recorded", "re-encoded")
    ]
    assert all(row[name] > 0 for row in results["videos"] for name in ("plain", "clips_of_16", "clips_of_64"))
    found = results["latents"]
    assert min(found["memory_map"], found["loader"], found["two_processes"]) > 0
    assert [(row["stage"], row["reads"]) for row in results["steps"]] == [
        ("tokenizer", "video"),
        ("dynamics", "latents"),
    ]
    assert all(row["seconds"] > 0 and 0 <= row["waited"] < 1 for row in results["steps"])
    table = capsys.readouterr().out
    assert table.count("of the plain read") == 8 and "goal 80%" in table
