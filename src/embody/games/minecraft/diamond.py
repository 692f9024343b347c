"""The results of Minecraft episodes: a log of episodes, and tables of how often and how early items are obtained."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embody.config import from_dict, to_dict
from embody.data import write_text
from embody.errors import UserError
from embody.games.minecraft.tasks import ITEMS
from embody.logger_manager import drop_half_line
from embody.metrics.rates import rate
from embody.metrics.tables import percent
from embody.saving.atomic_write import open_to_append, writing
from embody.saving.json_files import parse_json

__all__ = ["DiamondEpisode", "EpisodeLog", "diamond_summary", "diamond_table", "episodes_table", "write_diamond_page"]

_STEPS_PER_SECOND = 20  # of the simulator


@dataclass(frozen=True)
class DiamondEpisode:
    """The result of one episode."""

    episode: int  # its number, from 0
    seed: int  # of its world
    steps: int  # the number of actions played
    reward: float  # the sum of the simulator's rewards
    # Ended by the simulator, such as by death; stopped at the time limit; or lost with the simulator.
    end: Literal["terminated", "truncated", "lost"]
    items: dict[str, int] = field(default_factory=dict)  # item -> the number of actions until it was first obtained
    switches: tuple[str, ...] = ()  # the changes of the task, in words
    error: str = ""  # why the episode was lost


class EpisodeLog:
    """Finished episodes in a file of JSON lines, so that an evaluation that was killed continues with the next one.

    The first line of the file is the recipe; each other line is a `DiamondEpisode`, written when the episode ends.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any]) -> None:
        """Open or create the log; a `UserError` if it is damaged or its episodes were played with another recipe."""
        self.path = path
        self.episodes: dict[int, DiamondEpisode] = {}
        recipe = json.loads(json.dumps(recipe))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            drop_half_line(path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if not lines:
            self._write({"recipe": recipe})
            return
        try:
            found, *rest = map(parse_json, lines)
            for values in rest:
                episode = _episode(values)
                self.episodes[episode.episode] = episode  # a later line replaces that of a lost episode
            before = found["recipe"]
            different = next((key for key in {**recipe, **before} if recipe.get(key) != before.get(key)), None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and evaluate again") from error
        if different is not None:
            raise UserError(
                f"{path} has episodes of another evaluation ({different} differs): delete it, or use another --name"
            )

    def add(self, episode: DiamondEpisode) -> None:
        """Add a finished episode; it is on disk when this returns."""
        self.episodes[episode.episode] = episode
        self._write(to_dict(episode))

    def missing(self, episodes: int) -> list[int]:
        """The numbers below `episodes` of the episodes that are still to be played; these include lost ones."""
        return [n for n in range(episodes) if n not in self.episodes or self.episodes[n].end == "lost"]

    def _write(self, values: Mapping[str, Any]) -> None:
        with writing(self.path), open_to_append(self.path) as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _episode(values: Mapping[str, Any]) -> DiamondEpisode:
    items = values["items"]
    if not isinstance(items, dict) or not set(items) <= set(ITEMS):
        raise UserError("items")
    if not all(type(step) is int and 0 < step <= values["steps"] for step in items.values()):
        raise UserError("when items were obtained")
    plain = from_dict(DiamondEpisode, {**values, "items": {}})
    return dataclasses.replace(plain, items=items)


# --- the table ------------------------------------------------------------------------------------------------------


def diamond_summary(episodes: Iterable[DiamondEpisode], requested: int) -> dict[str, Any]:
    """The numbers of played and lost episodes, and each item's success rate and median time, as JSON values.

    Only episodes with a number below `requested` count. A lost episode is neither a success nor a failure: it is
    counted under `lost` and in no rate.
    """
    chosen = [episode for episode in episodes if episode.episode < requested]
    played = [episode for episode in chosen if episode.end != "lost"]
    items = {}
    for item in ITEMS if played else ():
        first = [episode.items[item] for episode in played if item in episode.items]
        median = float(np.median(first)) if first else None
        items[item] = {
            **dataclasses.asdict(rate(len(first), len(played))),
            "obtained": len(first),
            "median_step": median,
            "median_minutes": None if median is None else median / _STEPS_PER_SECOND / 60,
        }
    ends = {end: sum(episode.end == end for episode in played) for end in ("terminated", "truncated")}
    return {
        "requested": requested,
        "played": len(played),
        "lost": len(chosen) - len(played),
        "ends": ends,
        "items": items,
    }


def diamond_table(summary: Mapping[str, Any]) -> str:
    """The summary as a Markdown table with a row for each item."""
    counts = f"{summary['played']} of {summary['requested']} episodes played"
    if lost := summary["lost"]:
        counts += f"; {lost} were lost with the simulator and are in no rate below: the same command plays them again"
    ends = summary["ends"]
    lines = [
        f"{counts}. {ends['truncated']} reached the time limit, {ends['terminated']} ended before it.",
        "",
        "| item | success (95% interval) | episodes with it | median time of the first one |",
        "| --- | --- | --- | --- |",
    ]
    for item, value in summary["items"].items():
        interval = f"{percent(value['mean'])} ({100 * value['low']:.1f}-{100 * value['high']:.1f})"
        minutes = "-" if value["median_minutes"] is None else f"{value['median_minutes']:.1f} min"
        lines.append(f"| {item.replace('_', ' ')} | {interval} | {value['obtained']} | {minutes} |")
    return "\n".join(lines) + "\n"


def episodes_table(episodes: Iterable[DiamondEpisode]) -> str:
    """A Markdown table with a row for each episode: how it ended, and when it first obtained each item."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [row(["episode", "seed", "end", "minutes", *(item.replace("_", " ") for item in ITEMS)])]
    lines.append(row(["---"] * (4 + len(ITEMS))))
    for episode in sorted(episodes, key=lambda episode: episode.episode):
        times = [_minutes(episode.items[item]) if item in episode.items else "-" for item in ITEMS]
        lines.append(row([str(episode.episode), str(episode.seed), episode.end, _minutes(episode.steps), *times]))
    return "\n".join(lines) + "\n"


def _minutes(steps: int) -> str:
    return f"{steps / _STEPS_PER_SECOND / 60:.2f}"


def write_diamond_page(path: Path, summary: Mapping[str, Any], episodes: Iterable[DiamondEpisode]) -> None:
    """Write both tables as a Markdown page, with the command, date and recipe that made them."""
    made = summary["made"]
    recipe = ", ".join(f"{key} {value}" for key, value in summary["recipe"].items() if key != "schedule")
    page = [
        f"# The way to the diamond: `{made['command']}`",
        f"Made on {made['date']}. {recipe}.",
        diamond_table(summary),
        "Minutes until each episode first obtained each item:",
        episodes_table(episode for episode in episodes if episode.episode < summary["requested"]),
    ]
    write_text(path, "\n\n".join(page))
