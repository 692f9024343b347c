"""What fewer bits cost a trained world: `python -m benchmarks.precision`, in the folder of a run that is trained.

Held-out clips are dreamt from the same contexts, actions and noise in each precision: PSNR against what happened, and
against the float32 dream, over horizons 1 to 10. Prints a table and writes JSON.
"""

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.run import ROOT, commit, save
from embody.data import open_dataset
from embody.evaluation.held_out import dream_held_out
from embody.games import stored_config
from embody.metrics.rates import psnr
from embody.metrics.rollouts import NEAR
from embody.model import Precision, for_inference, load_dynamics, load_tokenizer
from embody.saving.tensors import tensors_hash

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "float8")


def main(words: Sequence[str] | None = None) -> Path:
    """Measure the run; where the results went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/minigrid"), help="holds config.json")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(words)
    config = stored_config(json.loads((options.run / "config.json").read_text()))
    config = replace(config, evaluation=replace(config.evaluation, horizon=NEAR))
    tokenizer, _ = load_tokenizer(config.weights("tokenizer"))
    dynamics, _ = load_dynamics(config.weights("dynamics"))
    encoded_by = tensors_hash(tokenizer.state_dict())
    datasets = [open_dataset(config.dataset_dir(task)) for task in config.env.tasks]
    found: dict[str, dict[str, float | None]] = {}
    exact: NDArray[np.uint8] | None = None
    for precision in PRECISIONS:
        world = for_inference(dynamics, precision=precision)
        r = dream_held_out(config, tokenizer, world, datasets, encoded_by).rollouts
        exact = r.imagined if exact is None else exact
        differs = _error(r.imagined, exact, r.valid)
        found[precision] = {
            "psnr_db": psnr(_error(r.imagined, r.real, r.valid)),
            "psnr_to_float32_db": psnr(differs) if differs else None,
        }
    results = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": describe(), "found": found}
    print("| weights | PSNR, horizons 1-10 | to the float32 dream |\n| --- | --- | --- |")
    for name, values in found.items():
        shown = ["equal" if value is None else f"{value:.2f} dB" for value in values.values()]
        print(f"| {name} | {' | '.join(shown)} |")
    return save(results, options.results, "precision")


def _error(one: NDArray[np.uint8], other: NDArray[np.uint8], valid: NDArray[np.bool_]) -> float:
    return float(((one[valid] / 255.0 - other[valid] / 255.0) ** 2).mean())


if __name__ == "__main__":
    main()
