"""Crafter's evaluation: the achievements that each policy unlocks in held-out worlds.

Shapes: P achievements.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embody.config import Config
from embody.data import Dataset
from embody.data.goal import goal_of
from embody.errors import UserError
from embody.games.crafter.play import Unlocked, play_achievements
from embody.games.crafter.schedule import AchievementSchedule
from embody.games.crafter.tasks import ACHIEVEMENTS
from embody.games.evaluation import FILMS, as_bits, compared, episode_film, trial_seeds
from embody.games.trials import Found, GameEvaluation, MakePolicy
from embody.metrics.pictures import write_films
from embody.metrics.policies import title_of
from embody.metrics.results_file import Results, lookup
from embody.metrics.sections import Section
from embody.metrics.statistics import Outcomes, Statistic, achievement_score, bootstrap, mean_rate, mean_return
from embody.metrics.tables import percent

__all__ = ["EVALUATION", "CrafterTrials"]


class CrafterTrials:
    """Each trial is a batch of `evaluation.batch` held-out worlds, played in lockstep."""

    def __init__(self, config: Config, datasets: Sequence[Dataset]) -> None:
        self._config, self._datasets = config, datasets
        seeds, batch = trial_seeds(config, config.env.tasks[0]), config.evaluation.batch
        self._seeds = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
        self.names = [
            f"worlds {place * batch}-{place * batch + len(part) - 1}" for place, part in enumerate(self._seeds)
        ]

    def play(self, number: int, make_policy: MakePolicy, pictures: Path | None) -> dict[str, Any]:
        """Play the worlds of one trial and return `Unlocked.to_json`; films of the first two go to `pictures`."""
        config, record = self._config, FILMS if pictures and number == 0 else 0
        seeds, goal = self._seeds[number], goal_of(config.agent.goal)
        schedule = _schedule(config)
        played = play_achievements(config.env, schedule, seeds, make_policy(number), goal, record)
        if pictures and record:
            films = [episode_film(recording, config.env.game) for recording in played.recordings]
            write_films(pictures / "episodes-0.npz", films)
        return played.to_json()

    def results(self, found: Found) -> dict[str, Any]:
        """As `Trials`; each policy also has `score`, `return` (achievements an episode), `length`, `died` and `reward`.

        Intervals of statistics over all achievements are bootstrapped over worlds.
        """
        unlocked = {policy: Unlocked.from_json(parts) for policy, parts in found.items()}
        achieved = {
            policy: {name: as_bits(u.achieved[:, place]) for place, name in enumerate(ACHIEVEMENTS)}
            for policy, u in unlocked.items()
        }
        seeds = {self._config.env.tasks[0]: [seed for part in self._seeds for seed in part]}
        results = compared(achieved, seeds, self._datasets, together=True)
        for policy, u in unlocked.items():
            outcomes = u.achieved[None]
            results["success"][policy] |= _estimated(outcomes, mean_rate) | {
                "score": _estimated(outcomes, achievement_score),
                "return": _estimated(outcomes, mean_return),
                "length": float(u.length.mean()),
                "died": float(u.died.mean()),
                "reward": float(u.reward.mean()),
            }
        return results


def _estimated(outcomes: Outcomes, statistic: Statistic) -> dict[str, float]:
    estimate = bootstrap(outcomes, statistic)
    return {"mean": float(estimate.value), "low": float(estimate.low), "high": float(estimate.high)}


def _schedule(config: Config) -> AchievementSchedule:
    if not isinstance(config.schedule, AchievementSchedule):
        raise UserError(f"{config.name} has no schedule of achievements: begin with one of Crafter's presets")
    return config.schedule


# --- the report -----------------------------------------------------------------------------------------------------


def sections(results: Results) -> Sequence[Section]:
    """One table of the averages over episodes, with a column for each policy."""
    found: Mapping[str, Any] = lookup(results, "success") or {}
    shown: Mapping[str, tuple[str, Callable[[Any], str]]] = {
        "score": ("Crafter score (95% interval over episodes)", lambda v: _between(v, ".1f")),
        "return": ("achievements an episode", lambda v: _between(v, ".2f")),
        "length": ("steps an episode", "{:.0f}".format),
        "died": ("died", percent),
        "reward": ("Crafter's reward", "{:.1f}".format),
    }
    rows = [
        [title, *(show(value[key]) if key in value else "-" for value in found.values())]
        for key, (title, show) in shown.items()
        if any(key in value for value in found.values())
    ]
    text = (
        "In held-out worlds. The Crafter score is exp(mean of ln(1 + s)) - 1, where s is the success rate of each"
        " achievement in percent: rare achievements weigh more. Crafter's reward also counts lost and regained health."
    )
    header = ["mean over episodes", *map(title_of, found)]
    return [Section("Averages over episodes", text, tables=((header, rows),))] if rows else []


def _between(value: Mapping[str, float], form: str) -> str:
    return f"{value['mean']:{form}} ({value['low']:{form}}-{value['high']:{form}})"


EVALUATION = GameEvaluation(trials=CrafterTrials, success="the achievement rate", sections=sections)
