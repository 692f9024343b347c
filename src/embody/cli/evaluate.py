"""Commands that measure and show: evaluate, compare, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from embody.cli.settings import Command, Preset, Settings, with_full
from embody.config import Config
from embody.data import atomic_write
from embody.errors import UserError
from embody.evaluation.compare import compare_runs
from embody.games import Simulated
from embody.trainer import Trainer

__all__ = ["commands"]


def commands(base: Config, command: str) -> tuple[Command, ...]:
    """The commands of this group, with the settings of `base` as defaults; results keep `command`, as it was typed."""

    def evaluate(
        preset: Preset = base.preset,
        config: Settings = base,
        full: bool = False,
        environment: Annotated[str | None, tyro.conf.arg(name="env")] = None,
        server: tuple[str, ...] = ("127.0.0.1:5555",),
        policy: Simulated = "imagination",
    ) -> Callable[[], object]:
        """Measure what is trained, in the real environment and in the dream.

        Args:
            environment: a simulator's instead, such as minerl:MineRLObtainDiamond-v0 (docs/simulator.md).
            server: host:port of each simulator's server; as many episodes are played side by side.
            policy: who plays in the simulator.
        """
        if environment is None:
            return lambda: Trainer(config=with_full(config, full)).evaluate(command=command)
        if full:
            raise UserError("--full has no meaning in a simulator: say how many with --evaluation.episodes")
        return lambda: Trainer(config=config).evaluate_in_simulator(environment, server, policy, command)

    def compare(
        names: tyro.conf.Positional[tuple[str, ...]], runs_dir: str = base.runs_dir, out: Path | None = None
    ) -> Callable[[], object]:
        """Runs of several training seeds in one table: rates with intervals, and differences to cloning.

        Args:
            names: of the runs; all must have played the same episodes.
            out: a Markdown file, which the table is written to as well.
        """

        def start() -> None:
            table = compare_runs([Path(runs_dir) / name / "results.json" for name in names])
            print(table)
            if out:
                with atomic_write(out) as temporary:
                    temporary.write_text(f"{table}\n", encoding="utf-8")

        return start

    def report(preset: Preset = base.preset, config: Settings = base) -> Callable[[], object]:
        """Write the run's report, one HTML file."""
        return lambda: Trainer(config=config).report()

    return evaluate, compare, report
