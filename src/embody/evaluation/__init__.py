"""Evaluation: measures of the world model, success in the real environment, results and the report."""

from embody.evaluation.cells import CellReader, cell_accuracy, changed_cell_accuracy
from embody.evaluation.diamond import DiamondEpisode, EpisodeLog, diamond_summary, diamond_table
from embody.evaluation.metrics import Counts, Rate, mean_over_tasks, precision_recall, psnr, rate, wilson
from embody.evaluation.pictures import Film, action_captions, dream_gif, write_films, write_pairs
from embody.evaluation.report import write_report
from embody.evaluation.results import read_results, results_table, write_results, write_results_page
from embody.evaluation.run import FinishedParts, evaluate_run
from embody.evaluation.schedule import Gains, Scheduler, Switch
from embody.evaluation.seeds import compare_runs, outcomes_of, seeds_markdown, seeds_table
from embody.evaluation.simulator import Simulated, TaskPolicy, evaluate_in_simulator, play_diamond
from embody.evaluation.success import (
    Demonstrations,
    Policy,
    RandomPolicy,
    Recording,
    Successes,
    demonstrations,
    play,
    summary,
)
from embody.evaluation.world_model import Rollouts, measure

__all__ = [
    "CellReader",
    "Counts",
    "Demonstrations",
    "DiamondEpisode",
    "EpisodeLog",
    "Film",
    "FinishedParts",
    "Gains",
    "Policy",
    "RandomPolicy",
    "Rate",
    "Recording",
    "Rollouts",
    "Scheduler",
    "Simulated",
    "Successes",
    "Switch",
    "TaskPolicy",
    "action_captions",
    "cell_accuracy",
    "changed_cell_accuracy",
    "compare_runs",
    "demonstrations",
    "diamond_summary",
    "diamond_table",
    "dream_gif",
    "evaluate_in_simulator",
    "evaluate_run",
    "mean_over_tasks",
    "measure",
    "outcomes_of",
    "play",
    "play_diamond",
    "precision_recall",
    "psnr",
    "rate",
    "read_results",
    "results_table",
    "seeds_markdown",
    "seeds_table",
    "summary",
    "wilson",
    "write_films",
    "write_pairs",
    "write_report",
    "write_results",
    "write_results_page",
]
