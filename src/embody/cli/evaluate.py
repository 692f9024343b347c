"""Commands that measure and show: evaluate, report, compare."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from embody.cli.settings import Preset, Settings, trainer, with_full
from embody.config import Config, check_name
from embody.errors import UserError
from embody.games import Simulated
from embody.saving.atomic_write import write_text

__all__ = ["Compare", "Evaluate", "Report"]


@dataclass(frozen=True)
class Evaluate:
    """Measure what is trained, in the real environment and in the dream.

    The results go to results.json in the run's folder; stages that are not trained yet are left out.
    """

    preset: Preset = Config.preset
    config: Settings = Config()
    full: bool = False
    """Measure the controls too, and everything on more episodes (--evaluation.full-episodes)."""
    env: str | None = None
    """Environment of a simulator to play in instead, such as minerl:MineRLObtainDiamond-v0 (docs/simulator.md)."""
    server: tuple[str, ...] = ("127.0.0.1:5555",)
    """HOST:PORT of each server of the simulator; one episode at a time is played on each."""
    policy: Simulated = "imagination"
    """The policy that plays in the simulator: after imagination, after behaviour cloning, or at random."""

    def start(self, typed: str) -> None:
        if self.env is None:
            trainer(with_full(self.config, self.full)).evaluate(command=typed)
        elif self.full:
            raise UserError("--full has no meaning in a simulator: say how many with --evaluation.episodes")
        else:
            trainer(self.config).evaluate_in_simulator(self.env, self.server, self.policy, typed)


@dataclass(frozen=True)
class Compare:
    """Compare runs of several training seeds in one table.

    The table has the success rates with their intervals, and the differences to behaviour cloning. All runs must have
    played the same evaluation episodes.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of the runs, each of another training seed."""
    runs_dir: str = Config.runs_dir
    """Folder of all runs."""
    out: Path | None = None
    """Markdown file that the table is written to as well."""

    def start(self, typed: str) -> None:
        from embody.evaluation.compare import compare_runs

        for name in self.names:
            check_name("run", name)
        table = compare_runs([Path(self.runs_dir) / name / "results.json" for name in self.names])
        print(table)
        if self.out:
            write_text(self.out, f"{table}\n")


@dataclass(frozen=True)
class Report:
    """Write the report of a run as one HTML file, report.html in the run's folder."""

    preset: Preset = Config.preset
    config: Settings = Config()

    def start(self, typed: str) -> None:
        trainer(self.config).report()
