"""The diamond table: which items episodes of Minecraft obtain, how often, and when; and the episodes themselves."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embody.config import from_dict, to_dict
from embody.data import atomic_write
from embody.errors import UserError
from embody.games.minecraft.tasks import ITEMS
from embody.logger_manager import drop_half_line
from embody.metrics.rates import rate
from embody.metrics.tables import percent

__all__ = ["DiamondEpisode", "EpisodeLog", "diamond_summary", "diamond_table", "episodes_table", "write_diamond_page"]

_RATE = 20  # steps a second, of the simulator


@dataclass(frozen=True)
class DiamondEpisode:
    """What one episode came to."""

    episode: int
    seed: int
    steps: int  # actions played
    reward: float  # the simulator's own, summed
    end: Literal["over", "time", "error"]  # the simulator's own end, such as death; the limit; or it was lost
    items: dict[str, int] = field(default_factory=dict)  # each item obtained -> after how many actions, first
    switches: tuple[str, ...] = ()  # of the task
    error: str = ""


class EpisodeLog:
    """Finished episodes as JSON lines, each written at once: an evaluation that is killed goes on at the next one.

    The first line says what is measured; a `UserError` if the file holds episodes of anything else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.episodes: dict[int, DiamondEpisode] = {}
        about = json.loads(json.dumps(about))
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_half_line(path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if not lines:
            self._write({"about": about})
            return
        try:
            found, *rest = map(json.loads, lines)
            for values in rest:
                episode = _episode(values)
                self.episodes[episode.episode] = episode  # one that was lost and played again counts once
            before = found["about"]
            different = next((key for key in {**about, **before} if about.get(key) != before.get(key)), None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and evaluate anew") from error
        if different is not None:
            raise UserError(
                f"{path} holds episodes of another evaluation ({different} differs): delete it, or use another --name"
            )

    def add(self, episode: DiamondEpisode) -> None:
        """Keep a finished episode, on disk before this returns."""
        self.episodes[episode.episode] = episode
        self._write(to_dict(episode))

    def missing(self, episodes: int) -> list[int]:
        """Which of the first `episodes` are still to be played, those that were lost to an error included."""
        return [n for n in range(episodes) if n not in self.episodes or self.episodes[n].end == "error"]

    def _write(self, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
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


def diamond_summary(episodes: Iterable[DiamondEpisode], asked: int) -> dict[str, Any]:
    """Ready for JSON: of `asked` episodes, how many were played and lost, and each item's rate and first time.

    Lost episodes are neither successes nor failures: they are in no rate, and counted under `lost`.
    """
    every = [episode for episode in episodes if episode.episode < asked]
    played = [episode for episode in every if episode.end != "error"]
    items = {}
    for item in ITEMS if played else ():
        first = [episode.items[item] for episode in played if item in episode.items]
        median = float(np.median(first)) if first else None
        items[item] = {
            **dataclasses.asdict(rate(len(first), len(played))),
            "obtained": len(first),
            "median_step": median,
            "median_minutes": None if median is None else median / _RATE / 60,
        }
    ends = {end: sum(episode.end == end for episode in played) for end in ("over", "time")}
    return {"asked": asked, "played": len(played), "lost": len(every) - len(played), "ends": ends, "items": items}


def diamond_table(summary: Mapping[str, Any]) -> str:
    """The summary in Markdown."""
    counts = f"{summary['played']} of {summary['asked']} episodes played"
    if lost := summary["lost"]:
        counts += f"; {lost} lost with the simulator, in no rate below: the same command plays them again"
    ends = summary["ends"]
    lines = [
        f"{counts}. {ends['time']} ran to the time limit, {ends['over']} ended before it.",
        "",
        "| item | success (95% interval) | episodes | first time, median of those |",
        "| --- | --- | --- | --- |",
    ]
    for item, value in summary["items"].items():
        interval = f"{percent(value['mean'])} ({100 * value['low']:.1f}-{100 * value['high']:.1f})"
        minutes = "-" if value["median_minutes"] is None else f"{value['median_minutes']:.1f} min"
        lines.append(f"| {item.replace('_', ' ')} | {interval} | {value['obtained']} | {minutes} |")
    return "\n".join(lines) + "\n"


def episodes_table(episodes: Iterable[DiamondEpisode]) -> str:
    """Each episode in Markdown: how it ended, and after how many minutes it first had each item."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    lines = [row(["episode", "seed", "end", "minutes", *(item.replace("_", " ") for item in ITEMS)])]
    lines.append(row(["---"] * (4 + len(ITEMS))))
    for episode in sorted(episodes, key=lambda episode: episode.episode):
        times = [_minutes(episode.items[item]) if item in episode.items else "-" for item in ITEMS]
        lines.append(row([str(episode.episode), str(episode.seed), episode.end, _minutes(episode.steps), *times]))
    return "\n".join(lines) + "\n"


def _minutes(steps: int) -> str:
    return f"{steps / _RATE / 60:.2f}"


def write_diamond_page(path: Path, summary: Mapping[str, Any], episodes: Iterable[DiamondEpisode]) -> None:
    """Both tables as a Markdown page, with what it takes to make it again."""
    made = summary["made"]
    about = ", ".join(f"{key} {value}" for key, value in summary["about"].items() if key != "schedule")
    page = [
        f"# The way to the diamond: `{made['command']}`",
        f"Made on {made['date']}. {about}.",
        diamond_table(summary),
        "After how many minutes each episode first had each item:",
        episodes_table(episode for episode in episodes if episode.episode < summary["asked"]),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(page), encoding="utf-8")
